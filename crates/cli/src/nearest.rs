//! "Did you mean …?"

/// The candidate nearest to what was typed, if it is near enough to be what was meant.
///
/// Near: at most a third of the letters differ (Levenshtein), and no more than six. Of equally near
/// ones the first wins.
pub(crate) fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.to_lowercase().chars().collect();
    let limit = (typed.len().div_ceil(3)).min(6);
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

fn distance(typed: &[char], candidate: &str) -> usize {
    let mut row: Vec<usize> = (0..=typed.len()).collect();
    for (i, c) in candidate.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &t) in typed.iter().enumerate() {
            let changed = diagonal + usize::from(c != t);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[typed.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let params = [
            "ipmi/virtual-media-boot",
            "boot-virtual-iso-url",
            "boot-virtual-iso",
            "network-data",
        ];
        assert_eq!(nearest("boot-virtual-media", params), Some("boot-virtual-iso"));
        assert_eq!(nearest("Network-Data", params), Some("network-data"));
        assert_eq!(nearest("kernel-console", params), None);
        assert_eq!(nearest("machine", ["machines", "params"]), Some("machines"));
        assert_eq!(nearest("shwo", ["show", "list"]), Some("show"));
        assert_eq!(nearest("", ["a"]), None);
    }
}
