//! Frames, topic names and filters, read slowly.

/// What is at the front of a stream of packets.
#[derive(Debug, PartialEq, Eq)]
pub enum Front {
    /// Not all of a packet.
    Part,
    /// A packet of so many octets, whose body begins behind so many.
    Whole { octets: usize, header: usize },
    /// No packet.
    Wrong,
}

/// MQTT 5.0 sections 2.1.1 and 1.5.5: the number in the fewest octets, at most four of them.
pub fn front(octets: &[u8], limit: usize) -> Front {
    let Some(first) = octets.first() else { return Front::Part };
    if *first < 0x10 {
        return Front::Wrong;
    }
    for length in 1..=4 {
        let Some(last) = octets.get(length) else { return Front::Part };
        if *last >= 0x80 {
            continue;
        }
        if length > 1 && *last == 0 {
            return Front::Wrong;
        }
        let mut body = 0_usize;
        for place in (1..=length).rev() {
            body = body * 128 + usize::from(octets[place] & 0x7F);
        }
        let whole = 1 + length + body;
        return match (whole > limit, whole > octets.len()) {
            (true, _) => Front::Wrong,
            (false, true) => Front::Part,
            (false, false) => Front::Whole { octets: whole, header: 1 + length },
        };
    }
    Front::Wrong
}

fn is_text(text: &str) -> bool {
    !text.chars().any(|c| {
        let c = u32::from(c);
        c < 32 || (127..160).contains(&c) || (0xFDD0..0xFDF0).contains(&c) || c % 0x1_0000 >= 0xFFFE
    })
}

/// MQTT 5.0 section 4.7.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() < 65_536 && is_text(name) && !name.chars().any(|c| c == '+' || c == '#')
}

/// MQTT 5.0 sections 4.7.1 and 4.8.2.
pub fn is_filter(filter: &str) -> bool {
    if filter.len() >= 65_536 || !is_text(filter) {
        return false;
    }
    let mut levels: Vec<&str> = filter.split('/').collect();
    if levels[0] == "$share" {
        if levels.len() < 3 || levels[1].is_empty() || levels[1].contains(['+', '#']) {
            return false;
        }
        levels.drain(..2);
    }
    if levels == [""] {
        return false;
    }
    let last = levels.len() - 1;
    levels.iter().enumerate().all(|(at, level)| match *level {
        "#" => at == last,
        "+" => true,
        level => !level.contains(['+', '#']),
    })
}

/// MQTT 5.0 section 4.7.1, for a filter without a share.
pub fn is_match(filter: &str, name: &str) -> bool {
    fn go(filter: &[&str], name: &[&str]) -> bool {
        match (filter.first(), name.first()) {
            (Some(&"#"), _) => true,
            (Some(&"+"), Some(_)) => go(&filter[1..], &name[1..]),
            (Some(wanted), Some(found)) => wanted == found && go(&filter[1..], &name[1..]),
            (None, None) => true,
            _ => false,
        }
    }
    let (filter, name): (Vec<_>, Vec<_>) = (filter.split('/').collect(), name.split('/').collect());
    if name[0].starts_with('$') && (filter[0] == "#" || filter[0] == "+") {
        return false;
    }
    go(&filter, &name)
}
