//! Suggests names for messages, when a name that the user gave does not exist. No name is chosen for the user.

/// Number of names that a message lists.
const SHOWN_MAX: usize = 8;

/// The end of a message: the names that are similar to `wanted`; if none is, the first names after the words
/// `all_are`.
pub(super) fn near<'n>(wanted: &[u8], names: impl Iterator<Item = &'n [u8]>, all_are: &str) -> String {
    let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
    let wanted = lower(wanted);
    let all: Vec<&[u8]> = names.collect();
    let is_near = |name: &&&[u8]| {
        let name = lower(name);
        // One name contains the other, or up to a third of the letters are wrong.
        !wanted.is_empty()
            && (name.contains(&wanted) || wanted.contains(&name) || distance(&wanted, &name) <= wanted.chars().count().div_ceil(3))
    };
    let mut shown: Vec<&[u8]> = all.iter().filter(is_near).copied().collect();
    let is_any_near = !shown.is_empty();
    if !is_any_near {
        shown.clone_from(&all);
    }
    let more = if shown.len() > SHOWN_MAX { ", ..." } else { "" };
    let list: Vec<String> = shown.iter().take(SHOWN_MAX).map(|name| format!("`{}`", String::from_utf8_lossy(name))).collect();
    match (is_any_near, list.is_empty()) {
        (_, true) => "there are none".to_owned(),
        (true, false) => format!("did you mean {}{more}?", list.join(", ")),
        (false, false) => format!("{all_are} {}{more}", list.join(", ")),
    }
}

/// The number of letters to add, remove or change to get from one to the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut next = vec![at + 1];
        for (place, (pair, there)) in row.windows(2).zip(&other).enumerate() {
            let &[diagonal, above] = pair else { continue };
            let left = next.get(place).copied().unwrap_or(usize::MAX - 1);
            next.push((diagonal + usize::from(letter != *there)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_like_the_wanted_one_come_alone() {
        let of = |wanted: &str, names: &[&str]| near(wanted.as_bytes(), names.iter().map(|name| name.as_bytes()), "it has");
        assert_eq!(of("vault", &["globals.sql", "vault.db", "Vaults"]), "did you mean `vault.db`, `Vaults`?");
        assert_eq!(of("memroy.db", &["memory.db", "registry.db"]), "did you mean `memory.db`?");
        assert_eq!(of("x", &["memory.db", "registry.db"]), "it has `memory.db`, `registry.db`");
        assert_eq!(of("x", &[]), "there are none");
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("abc", "")), (3, 3, 3));
    }
}
