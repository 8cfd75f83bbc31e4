//! Names and filters, level by level.

/// Whether the filter matches some name at or below this one.
pub(crate) fn meets_branch(filter: &str, name: &str) -> bool {
    let (mut wanted, mut levels) = (filter.split('/'), name.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (Some(_) | None, None) => return true,
            (None, Some(_)) => return false,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(found)) if level == found => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

/// The whole levels before the first wildcard; `None` if the filter begins with one.
pub(crate) fn before_wildcard(filter: &str) -> Option<String> {
    let levels: Vec<&str> =
        filter.split('/').take_while(|level| *level != "#" && *level != "+").collect();
    (!levels.is_empty()).then(|| levels.join("/"))
}

/// Whether there are wildcards in it.
pub(crate) fn is_wide(filter: &str) -> bool {
    filter.split('/').any(|level| level == "#" || level == "+")
}

/// Whether a name is this one or below it.
pub(crate) fn is_at_or_below(name: &str, top: &str) -> bool {
    name.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_meets_the_branches_in_which_a_name_fits_it() {
        for (filter, name, meets) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a/b", true),
            // `a/+` matches nothing at or below `a/b/c`.
            ("a/+", "a/b/c", false),
            ("a/+/c", "a", true),
            ("a/+/c", "a/b/d", false),
            ("a", "a/b", false),
            ("b/#", "a", false),
        ] {
            assert_eq!(meets_branch(filter, name), meets, "{filter} {name}");
        }
    }

    #[test]
    fn levels_are_whole() {
        assert_eq!(before_wildcard("a/b/+/c").as_deref(), Some("a/b"));
        assert_eq!(before_wildcard("#"), None);
        assert!(
            is_at_or_below("a/b", "a") && is_at_or_below("a", "a") && !is_at_or_below("ab", "a")
        );
    }
}
