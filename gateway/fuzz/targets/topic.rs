//! Names and filters are what the standard says, and all questions about them agree with which filter matches which name.
#![no_main]

use flytrap_fuzz::naive::{is_filter, is_match, is_name};
use flytrap_mqtt::topic::{Filter, TopicName, covers, intersects_branch, literal_prefix, matches, reaches_below};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split('\n');
    let (Some(name), Some(one), Some(other)) = (parts.next(), parts.next(), parts.next()) else { return };
    assert_eq!(TopicName::check(name).is_ok(), is_name(name), "{name:?}");
    for filter in [one, other] {
        assert_eq!(Filter::parse(filter).is_ok(), is_filter(filter), "{filter:?}");
    }
    let (Ok(one), Ok(other)) = (Filter::parse(one), Filter::parse(other)) else { return };
    if let Some(group) = one.share_group() {
        assert_eq!(format!("$share/{group}/{}", one.inner()), one.whole());
    }
    let (one, other) = (one.inner(), other.inner());
    if !is_name(name) {
        return;
    }
    let matched = is_match(one, name);
    assert_eq!(matches(one, name), matched, "{one:?} {name:?}");
    let is_wild = one.contains(['+', '#']);
    if matched {
        assert!(!covers(other, one) || is_match(other, name), "{other:?} covers {one:?} but not {name:?}");
        let prefix = literal_prefix(one);
        assert!(prefix.is_empty() || name == prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')));
        // Of every branch that the name lies in.
        let mut branch = name;
        assert!(intersects_branch(one, name));
        while let Some((above, _)) = branch.rsplit_once('/') {
            if !above.is_empty() {
                assert!(intersects_branch(one, above), "{one:?} {above:?} {name:?}");
                assert!(reaches_below(one, above), "{one:?} {above:?} {name:?}");
            }
            branch = above;
        }
    }
    assert!(is_wild || matched == (one == name));
    assert!(covers(one, one));
    if covers(one, other) && covers(other, one) {
        let alike = |name: &str| is_match(one, name) == is_match(other, name);
        assert!(alike(name), "{one:?} {other:?} {name:?}");
    }
    // Some name below the branch is matched, if any can be: wildcards stand for a level of their own.
    if reaches_below(one, name) {
        let below = one.split('/').skip(name.split('/').count());
        let rest: Vec<&str> = below.map(|level| if level == "+" || level == "#" { "x" } else { level }).collect();
        let rest = if rest.is_empty() { "x".to_owned() } else { rest.join("/") };
        assert!(is_match(one, &format!("{name}/{rest}")), "{one:?} {name:?} {rest:?}");
    }
});
