//! Topic names and topic filters: which are valid, which filter matches which name, and how filters
//! and branches of names overlap. Everything is linear in the length and compares octets: there is
//! no folding of case, no normalisation, and `a/`, `/a` and `a//b` have levels that are empty.

/// The most octets that a topic name or filter can have.
pub const MAX_OCTETS: usize = 65_535;

const SHARE: &str = "$share/";

/// Claims about topic names, which have no wildcards. See [`TopicName::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicName {}

/// Why text is not a topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty [MQTT-4.7.3-1].
    #[error("a topic name may not be empty")]
    Empty,
    /// It has more than [`MAX_OCTETS`] octets.
    #[error("a topic name has at most 65535 octets")]
    TooLong,
    /// It has `+` or `#` [MQTT-3.3.2-2].
    #[error("a topic name may not have the wildcards + and #")]
    Wildcard,
    /// It has a character that no text may have, see [`text`](crate::text).
    #[error("a topic name may not have control characters or noncharacters")]
    Character,
}

impl TopicName {
    /// Whether `name` may be published to, as far as MQTT is concerned.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn check(name: &str) -> Result<(), NameError> {
        if name.len() > MAX_OCTETS {
            return Err(NameError::TooLong);
        }
        match crate::text::check_topic_name(name.as_bytes()) {
            Ok(_) => Ok(()),
            Err(_) if name.is_empty() => Err(NameError::Empty),
            Err(crate::Malformed::TopicName) => Err(NameError::Wildcard),
            Err(_) => Err(NameError::Character),
        }
    }
}

/// Why text is not a topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is empty, or nothing follows the share group [MQTT-4.7.3-1].
    #[error("a topic filter may not be empty")]
    Empty,
    /// It has more than [`MAX_OCTETS`] octets.
    #[error("a topic filter has at most 65535 octets")]
    TooLong,
    /// `#` is not the last level, or a wildcard is not alone in its level [MQTT-4.7.1-1 and 4.7.1-2].
    #[error("a wildcard must be a whole level, and # the last one")]
    Wildcard,
    /// `$share/` without a group and a filter, or a group with a wildcard [MQTT-4.8.2-1 and 4.8.2-2].
    #[error("a shared subscription is $share/<group>/<filter>, the group without + and #")]
    Share,
    /// It has a character that no text may have, see [`text`](crate::text).
    #[error("a topic filter may not have control characters or noncharacters")]
    Character,
}

/// A valid topic filter.
///
/// `$share/<group>/<filter>` is read as a shared subscription in every version: 3.1 and 3.1.1 do not
/// have them, but brokers honour them for such clients too, and must not be given what was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Filter<'a> {
    whole: &'a str,
    /// Where the inner filter starts: after `$share/<group>/`, or 0.
    inner_start: usize,
}

impl<'a> Filter<'a> {
    /// Reads a topic filter.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(whole: &'a str) -> Result<Self, FilterError> {
        if whole.len() > MAX_OCTETS {
            return Err(FilterError::TooLong);
        }
        crate::text::check(whole.as_bytes()).map_err(|_| FilterError::Character)?;
        // `$share` alone is no filter either: it would be a share name cut short [MQTT-4.8.2-1].
        let inner_start = match whole.strip_prefix(SHARE) {
            Some(shared) => {
                let (group, _) = shared.split_once('/').ok_or(FilterError::Share)?;
                if group.is_empty() || group.contains(['+', '#']) {
                    return Err(FilterError::Share);
                }
                SHARE.len() + group.len() + 1
            }
            None if whole == "$share" => return Err(FilterError::Share),
            None => 0,
        };
        let filter = Self { whole, inner_start };
        check_inner(filter.inner())?;
        Ok(filter)
    }

    /// The filter as it was given.
    #[must_use]
    pub const fn whole(&self) -> &'a str {
        self.whole
    }

    /// What decides on names: the filter without `$share/<group>/`.
    #[must_use]
    pub fn inner(&self) -> &'a str {
        &self.whole[self.inner_start..]
    }

    /// The group of a shared subscription.
    #[must_use]
    pub fn share_group(&self) -> Option<&'a str> {
        self.whole[..self.inner_start].strip_prefix(SHARE)?.strip_suffix('/')
    }

    /// Whether the inner filter has a wildcard.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.inner().contains(['+', '#'])
    }

    /// Whether the inner filter matches a topic name, see [`matches()`].
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches(self.inner(), name)
    }
}

fn check_inner(filter: &str) -> Result<(), FilterError> {
    if filter.is_empty() {
        return Err(FilterError::Empty);
    }
    let mut after_hash = false;
    for level in levels(filter) {
        if after_hash || (level.len() > 1 && level.contains(['+', '#'])) {
            return Err(FilterError::Wildcard);
        }
        after_hash = level == "#";
    }
    Ok(())
}

/// The levels of a topic name or filter, which `/` separates; at least one, any may be empty.
pub fn levels(name: &str) -> impl DoubleEndedIterator<Item = &str> + Clone {
    name.split('/')
}

/// Whether a topic filter (without `$share/<group>/`) matches a topic name.
///
/// Wildcards at the first level do not match names that begin with `$` [MQTT-4.7.2-1], and `a/#`
/// matches `a` too (4.7.1.2).
#[must_use]
pub fn matches(filter: &str, name: &str) -> bool {
    if is_hidden_from(filter, name) {
        return false;
    }
    // Octet by octet rather than by levels: this may be asked for every message.
    let (mut wanted, mut found) = (filter.as_bytes(), name.as_bytes());
    loop {
        match wanted {
            b"#" => return true,
            [b'+'] | [b'+', b'/', ..] => {
                let end = found.iter().position(|octet| *octet == b'/').unwrap_or(found.len());
                (wanted, found) = (&wanted[1..], &found[end..]);
            }
            _ => {
                let level = wanted.iter().take_while(|octet| **octet != b'/').count();
                let Some(rest) = found.strip_prefix(&wanted[..level]) else { return false };
                (wanted, found) = (&wanted[level..], rest);
            }
        }
        // A level of the filter is done, so one of the name must be.
        match (wanted, found) {
            ([], []) | (b"/#", []) => return true,
            ([b'/', rest @ ..], [b'/', found_rest @ ..]) => (wanted, found) = (rest, found_rest),
            _ => return false,
        }
    }
}

/// Whether a topic filter (without `$share/<group>/`) matches any topic name that is `branch` or
/// below it (`branch/...`).
#[must_use]
pub fn intersects_branch(filter: &str, branch: &str) -> bool {
    goes_on_below(filter, branch).is_some()
}

/// Whether a topic filter (without `$share/<group>/`) matches any topic name below `branch`
/// (`branch/...`), `branch` itself not counted.
#[must_use]
pub fn reaches_below(filter: &str, branch: &str) -> bool {
    goes_on_below(filter, branch) == Some(true)
}

/// Whether the filter asks for more than the branch, some name below which then has it; `None` if
/// it does not match so far.
fn goes_on_below(filter: &str, branch: &str) -> Option<bool> {
    if is_hidden_from(filter, branch) {
        return None;
    }
    let mut wanted = levels(filter);
    for found in levels(branch) {
        match wanted.next() {
            Some("#") => return Some(true),
            Some("+") => (),
            Some(wanted) if wanted == found => (),
            _ => return None,
        }
    }
    Some(wanted.next().is_some())
}

/// Whether every topic name that `narrow` matches is matched by `wide` too. Neither with
/// `$share/<group>/`.
#[must_use]
pub fn covers(wide: &str, narrow: &str) -> bool {
    if is_hidden_from(wide, narrow) {
        return false;
    }
    // `#` also stands for no level at all, so that `a/#` matches `a`. Only the empty name would be
    // the parent here, and there is no such name: these ask for one level more than others do.
    let narrow = match narrow {
        "#" => "+/#",
        "/#" => "/+/#",
        _ => narrow,
    };
    let mut wide = levels(wide);
    let mut narrow = levels(narrow);
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            // `#` stands for any number of levels, so no shorter filter has all of them.
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => (),
            (Some(wide), Some(narrow)) if wide == narrow => (),
            _ => return false,
        }
    }
}

/// The levels of a topic filter (without `$share/<group>/`) before its first wildcard: all of it if
/// there is none, and "" if it begins with one or if only an empty level comes first (`/+`).
#[must_use]
pub fn literal_prefix(filter: &str) -> &str {
    let Some(wildcard) = filter.find(['+', '#']) else { return filter };
    filter[..wildcard].strip_suffix('/').unwrap_or("")
}

/// Whether a name that begins with `$` stands before a filter whose first level is a wildcard.
fn is_hidden_from(filter: &str, name: &str) -> bool {
    name.starts_with('$') && filter.starts_with(['+', '#'])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn topic_names_have_no_wildcards_and_are_not_empty() {
        for name in ["a", "/", "a//b", "$SYS/x", "a b", "ü/\u{FEFF}"] {
            assert_eq!(TopicName::check(name), Ok(()), "{name:?}");
        }
        assert_eq!(TopicName::check(""), Err(NameError::Empty));
        assert_eq!(TopicName::check("a/+"), Err(NameError::Wildcard));
        assert_eq!(TopicName::check("#"), Err(NameError::Wildcard));
        assert_eq!(TopicName::check("a\0"), Err(NameError::Character));
        assert_eq!(TopicName::check("a\u{9F}"), Err(NameError::Character));
        assert_eq!(TopicName::check(&"a".repeat(MAX_OCTETS)), Ok(()));
        assert_eq!(TopicName::check(&"a".repeat(MAX_OCTETS + 1)), Err(NameError::TooLong));
    }

    #[test]
    fn wildcards_are_whole_levels_and_the_hash_is_the_last() {
        for filter in ["a", "/", "+", "#", "/#", "+/+", "a/+/b/#", "+/#", "a//b", "$SYS/#"] {
            assert_eq!(Filter::parse(filter).map(|filter| filter.inner()), Ok(filter));
        }
        for filter in ["a+", "+a", "a/b+/c", "++", "##", "a#", "#a", "#/", "a/#/b", "+#", "#/#"] {
            assert_eq!(Filter::parse(filter), Err(FilterError::Wildcard), "{filter:?}");
        }
        assert_eq!(Filter::parse(""), Err(FilterError::Empty));
        assert_eq!(Filter::parse("a\u{1}"), Err(FilterError::Character));
        assert_eq!(Filter::parse(&"a".repeat(MAX_OCTETS + 1)), Err(FilterError::TooLong));
    }

    #[test]
    fn shared_subscriptions_are_taken_apart() {
        let cases = [
            ("$share/g/a/+", Some("g"), "a/+"),
            ("$share/g//", Some("g"), "/"),
            ("$share/g/$SYS/#", Some("g"), "$SYS/#"),
            ("$share/g/$share/h/a", Some("g"), "$share/h/a"),
            ("$shared/g/a", None, "$shared/g/a"),
            ("$SHARE/g/a", None, "$SHARE/g/a"),
            ("share/g/a", None, "share/g/a"),
        ];
        for (whole, group, inner) in cases {
            let filter = Filter::parse(whole).unwrap();
            assert_eq!((filter.share_group(), filter.inner()), (group, inner), "{whole}");
            assert_eq!(filter.whole(), whole);
        }
        for broken in ["$share", "$share/", "$share/g", "$share//a", "$share/+/a", "$share/g#/a"] {
            assert_eq!(Filter::parse(broken), Err(FilterError::Share), "{broken}");
        }
        assert_eq!(Filter::parse("$share/g/"), Err(FilterError::Empty));
        assert_eq!(Filter::parse("$share/g/a#"), Err(FilterError::Wildcard));
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        let matching = [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/tennis/#", "sport/tennis"),
            ("$SYS/#", "$SYS/monitor/Clients"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/$x/+", "a/$x/b"),
            ("a/+", "a/$x"),
            ("öl/+", "öl/ü"),
        ];
        for (filter, name) in matching {
            assert!(matches(filter, name), "{filter} {name}");
        }
        let other = [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/x"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+/#", "$SYS/x"),
            ("a/b", "a/b/"),
            ("a", "A"),
            ("a/#", "ab"),
            ("a/b/#", "a"),
        ];
        for (filter, name) in other {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn a_filter_meets_a_branch_if_it_matches_any_name_in_it() {
        let meeting = [
            ("#", "a/b"),
            ("a/#", "a"),
            ("a/b/#", "a"),
            ("a/b/#", "a/b/c"),
            ("a/+/c", "a/b"),
            ("a/+/c", "a/b/c"),
            ("+/+", "a"),
            ("a", "a"),
            ("$SYS/#", "$SYS"),
        ];
        for (filter, branch) in meeting {
            assert!(intersects_branch(filter, branch), "{filter} {branch}");
        }
        let apart = [
            ("a/+/c", "a/b/c/d"),
            ("a", "a/b"),
            ("a/b", "a/c"),
            ("+", "a/b"),
            ("#", "$SYS"),
            ("+/x", "$SYS"),
            ("ab", "a"),
        ];
        for (filter, branch) in apart {
            assert!(!intersects_branch(filter, branch), "{filter} {branch}");
        }
    }

    #[test]
    fn a_filter_that_ends_with_the_branch_does_not_reach_below_it() {
        for filter in ["#", "a/#", "a/b/#", "a/b/+", "+/b/c", "a/b/"] {
            assert!(reaches_below(filter, "a/b"), "{filter}");
        }
        for filter in ["a/b", "a/+", "+/+", "a", "a/c/#", "a/b"] {
            assert!(!reaches_below(filter, "a/b"), "{filter}");
        }
    }

    /// `#` needs one level and `/#` two: the empty name, which would be their parent, is none.
    #[test]
    fn covering_counts_only_names_that_exist() {
        for (wide, narrow) in [
            ("+/#", "#"),
            ("/+/#", "/#"),
            ("+/+/#", "/#"),
            ("/#", "/#"),
            ("#", "/#"),
            ("/#", "/+/#"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [("/+", "/#"), ("/+/+/#", "/#"), ("a/+/#", "a/#"), ("#", "$s/#")] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn the_literal_prefix_ends_before_the_first_wildcard() {
        let cases = [
            ("a/b", "a/b"),
            ("a/b/#", "a/b"),
            ("a/+/c", "a"),
            ("#", ""),
            ("+/a", ""),
            ("/+", ""),
            ("//+", "/"),
            ("a//#", "a/"),
        ];
        for (filter, prefix) in cases {
            assert_eq!(literal_prefix(filter), prefix, "{filter}");
        }
    }

    #[test]
    fn the_longest_filter_of_empty_levels_is_read_and_matched() {
        let deep = "/".repeat(MAX_OCTETS);
        assert!(Filter::parse(&deep).is_ok());
        assert!(matches(&deep, &deep));
        assert!(covers(&deep, &deep));
        assert!(intersects_branch(&deep, &deep));
    }

    /// Few levels and few names for them, so that filters and names often meet.
    fn some_levels(choice: &'static [&'static str]) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(choice), 1..5)
            .prop_map(|levels| levels.join("/"))
    }

    fn some_name() -> impl Strategy<Value = String> {
        some_levels(&["a", "b", "", "$s"])
            .prop_filter("a name is not empty", |name| !name.is_empty())
    }

    fn some_filter() -> impl Strategy<Value = String> {
        (some_levels(&["a", "b", "", "$s", "+", "+"]), any::<bool>()).prop_map(
            |(levels, has_hash)| match levels.as_str() {
                "" => "#".to_owned(),
                _ if has_hash => levels + "/#",
                _ => levels,
            },
        )
    }

    /// Every name of up to five levels of a small alphabet: as many as the longest filter has.
    fn all_names() -> Vec<String> {
        let mut names = vec![Vec::new()];
        let mut longest = names.clone();
        for _ in 0..5 {
            longest = longest
                .iter()
                .flat_map(|name: &Vec<&str>| {
                    ["a", "b", "", "$s", "z"].map(|level| [name.as_slice(), &[level]].concat())
                })
                .collect();
            names.extend(longest.iter().cloned());
        }
        names.iter().map(|name| name.join("/")).filter(|name| !name.is_empty()).collect()
    }

    /// The standard's sentences, one level at a time and with recursion.
    fn model_matches(filter: &[&str], name: &[&str], is_first: bool) -> bool {
        let hidden = is_first && name.first().is_some_and(|level| level.starts_with('$'));
        match (filter, name) {
            ([], []) => true,
            (["#"], _) => !hidden,
            (["+", filter @ ..], [_, name @ ..]) => !hidden && model_matches(filter, name, false),
            ([wanted, filter @ ..], [found, name @ ..]) => {
                wanted == found && model_matches(filter, name, false)
            }
            _ => false,
        }
    }

    fn model(filter: &str, name: &str) -> bool {
        let (filter, name): (Vec<_>, Vec<_>) = (levels(filter).collect(), levels(name).collect());
        model_matches(&filter, &name, true)
    }

    proptest! {
        #[test]
        fn matching_is_what_the_model_says(filter in some_filter(), name in some_name()) {
            prop_assert!(Filter::parse(&filter).is_ok());
            prop_assert_eq!(matches(&filter, &name), model(&filter, &name));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn meeting_a_branch_is_what_trying_all_names_says(
            filter in some_filter(),
            branch in some_name(),
        ) {
            let below = format!("{branch}/");
            let any = all_names()
                .iter()
                .filter(|name| **name == branch || name.starts_with(&below))
                .any(|name| model(&filter, name));
            prop_assert_eq!(intersects_branch(&filter, &branch), any);
            let any_below = all_names()
                .iter()
                .filter(|name| name.starts_with(&below))
                .any(|name| model(&filter, name));
            prop_assert_eq!(reaches_below(&filter, &branch), any_below);
        }

        #[test]
        fn covering_is_what_trying_all_names_says(wide in some_filter(), narrow in some_filter()) {
            let all = all_names()
                .iter()
                .filter(|name| model(&narrow, name))
                .all(|name| model(&wide, name));
            prop_assert_eq!(covers(&wide, &narrow), all, "{} {}", wide, narrow);
        }
    }
}
