//! The kernel command line.

/// Its arguments in order. Double quotes hold blanks together, as for the kernel (`lib/cmdline.c`, `next_arg`);
/// what follows `--` counts too, though the kernel leaves it to `/init`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline(Vec<(String, String)>);

impl Cmdline {
    /// Splits a command line. Never fails: a quote that is not closed lasts to the end.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut arguments = Vec::new();
        let mut name: Option<String> = None;
        let mut word = String::new();
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                '=' if name.is_none() => name = Some(std::mem::take(&mut word)),
                c if c.is_whitespace() && !quoted => push(&mut arguments, &mut name, &mut word),
                c => word.push(c),
            }
        }
        push(&mut arguments, &mut name, &mut word);
        Self(arguments)
    }

    /// Value of the last argument of that name; one without `=` or with nothing behind it is none.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .rev()
            .find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// Values of all arguments of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }
}

fn push(arguments: &mut Vec<(String, String)>, name: &mut Option<String>, word: &mut String) {
    let word = std::mem::take(word);
    match name.take() {
        Some(name) => arguments.push((name, word)),
        None if word.is_empty() => {}
        None => arguments.push((word, String::new())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_seeds_line() {
        let line = Cmdline::parse(
            "BOOTIF=discovery rootflags=loop root=live:/sledgehammer.iso ro rs.uuid=bb1eadf9     \
             provisioner.ip=10.10.10.199/24   provisioner.interface=\"eth10\" provisioner.vlan= \
             -- console=ttyS0,115200 console=tty0\n",
        );
        assert_eq!(line.get("provisioner.interface"), Some("eth10"));
        assert_eq!(line.get("provisioner.ip"), Some("10.10.10.199/24"));
        assert_eq!(line.get("root"), Some("live:/sledgehammer.iso"));
        assert_eq!(line.get("provisioner.vlan"), None);
        assert_eq!(line.get("ro"), None);
        assert_eq!(line.all("console").collect::<Vec<_>>(), ["ttyS0,115200", "tty0"]);
    }

    #[test]
    fn quotes_hold_blanks() {
        let line = Cmdline::parse("\"a=b c\" d=\"e f\"g h=i=j x=\"open end");
        assert_eq!(line.get("a"), Some("b c"));
        assert_eq!(line.get("d"), Some("e fg"));
        assert_eq!(line.get("h"), Some("i=j"));
        assert_eq!(line.get("x"), Some("open end"));
    }

    proptest! {
        #[test]
        fn values_come_back(values in prop::collection::vec("[a-z0-9:./,=-]{1,20}( [a-z]{1,5})?", 0..20)) {
            let text: String = values.iter().enumerate().map(|(i, v)| format!("k{i}=\"{v}\" ")).collect();
            let line = Cmdline::parse(&text);
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(line.get(&format!("k{i}")), Some(value.as_str()));
            }
        }

        #[test]
        fn anything_is_parsed(text in any::<String>()) {
            let parsed = Cmdline::parse(&text);
            prop_assert!(parsed.0.len() <= text.len());
        }
    }
}
