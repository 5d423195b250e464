//! `{{else if}}` after `{{else if}}`. The engine's parser goes one level deeper with each and counts none of them, so a long
//! chain would end the process: it is refused before.

/// As deep as the engine runs blocks.
const MAX_CHAINED: usize = 200;

/// The line of an `{{else if}}` or `{{else with}}` with too many open ones in front of it.
pub(crate) fn too_long(text: &str) -> Option<usize> {
    // Most texts end here.
    text.matches("else").nth(MAX_CHAINED)?;
    let (mut open, mut chained) = (Vec::new(), 0);
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        rest = &rest[at + 2..];
        let action = rest.strip_prefix('-').unwrap_or(rest).trim_start();
        let name_end = action.find(|c: char| !c.is_alphanumeric()).unwrap_or(action.len());
        match &action[..name_end] {
            "if" | "range" | "with" | "define" | "block" => open.push(0),
            "else" if !action[name_end..].trim_start().starts_with(['}', '-']) => {
                // The parser takes one without a block around it for the end.
                *open.last_mut()? += 1;
                chained += 1;
                if chained > MAX_CHAINED {
                    return Some(text[..text.len() - rest.len()].matches('\n').count() + 1);
                }
            }
            "end" => chained -= open.pop().unwrap_or(0),
            _ => {}
        }
        rest = &action[length(action)..];
    }
    None
}

/// How long an action is, without its end: braces in its texts are none.
fn length(action: &str) -> usize {
    if action.starts_with("/*") {
        return action.find("*/").unwrap_or(action.len());
    }
    let mut quote = None;
    let mut chars = action.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(own) if c == own => quote = None,
            Some('"' | '\'') if c == '\\' => _ = chars.next(),
            Some(_) => {}
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            None if action[at..].starts_with("}}") => return at,
            None => {}
        }
    }
    action.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_count_while_they_are_open() {
        let chain = |n: usize| {
            format!(
                "{{{{if .A}}}}a{}{{{{else}}}}b{{{{end}}}}\n",
                "\n{{- else if \"}}\" -}}".repeat(n)
            )
        };
        assert_eq!(too_long(&chain(MAX_CHAINED)), None);
        assert_eq!(too_long(&chain(MAX_CHAINED + 1)), Some(MAX_CHAINED + 2));
        assert_eq!(too_long(&chain(10).repeat(MAX_CHAINED)), None);
        assert_eq!(
            too_long(&"{{`{{else if`}}{{/* {{else if}} */}}{{else}}".repeat(MAX_CHAINED)),
            None
        );
        let within = format!("{{{{range .A}}}}{}{}", "{{else with .B}}".repeat(MAX_CHAINED), chain(1));
        assert_eq!(too_long(&within), Some(2));
    }
}
