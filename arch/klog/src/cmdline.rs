//! The kernel's command line, as Linux reads it (man 7 bootparam).
//!
//! Words are separated by white space; double quotes keep white space in a word and are dropped.
//! `-` and `_` are the same in names. A lone `--` sends everything after it to init. A word that
//! the kernel does not know goes to init: `name=value` into its environment, anything else as an
//! argument; a word with a dot in its name is a module parameter and goes nowhere.

extern crate alloc;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// One word of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What is before the `=`.
    pub name: String,
    /// What is after it, if there is one.
    pub value: Option<String>,
}

/// The command line, taken apart.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    parameters: Vec<Parameter>,
    to_init: Vec<String>,
}

/// Whether two names are the same, `-` being `_`.
fn same_name(left: &str, right: &str) -> bool {
    let fold = |byte: u8| if byte == b'-' { b'_' } else { byte };
    left.len() == right.len() && left.bytes().map(fold).eq(right.bytes().map(fold))
}

/// Splits a line into words, with the quotes gone.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut in_word = false;
    let mut in_quotes = false;
    for c in line.chars() {
        match c {
            '"' => {
                in_quotes = !in_quotes;
                in_word = true;
            }
            c if c.is_ascii_whitespace() && !in_quotes => {
                if in_word {
                    words.push(core::mem::take(&mut word));
                }
                in_word = false;
            }
            c => {
                word.push(c);
                in_word = true;
            }
        }
    }
    if in_word {
        words.push(word);
    }
    words
}

/// Takes a command line apart.
pub fn parse(line: &str) -> CommandLine {
    let mut parsed = CommandLine::default();
    let mut all = words(line).into_iter();
    for word in all.by_ref() {
        if word == "--" {
            break;
        }
        let parameter = match word.split_once('=') {
            Some((name, value)) => Parameter { name: name.into(), value: Some(value.into()) },
            None => Parameter { name: word, value: None },
        };
        parsed.parameters.push(parameter);
    }
    parsed.to_init = all.collect();
    parsed
}

impl CommandLine {
    /// All parameters before `--`, in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The value of the last `name=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// The values of all `name=value`, in order.
    pub fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.parameters
            .iter()
            .filter(move |parameter| same_name(&parameter.name, name))
            .filter_map(|parameter| parameter.value.as_deref())
    }

    /// Whether the word `name` is there, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.parameters.iter().any(|parameter| same_name(&parameter.name, name))
    }

    /// The number in the last `name=number`, with Linux's prefixes `0x` and `0`.
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.value(name)?;
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (radix, digits) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
            [b'0', _, ..] => (8, digits.get(1..)?),
            _ => (10, digits),
        };
        let number = i64::from_str_radix(digits, radix).ok()?;
        Some(if negative { -number } else { number })
    }

    /// What goes to init: arguments and environment (`name=value`). `is_known` tells which words
    /// the kernel takes for itself.
    pub fn for_init(&self, is_known: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
        let mut arguments = Vec::new();
        let mut environment: Vec<String> = Vec::new();
        for parameter in &self.parameters {
            let name: Cow<'_, str> = match parameter.name.contains('-') {
                true => parameter.name.replace('-', "_").into(),
                false => parameter.name.as_str().into(),
            };
            if parameter.name.contains('.') || is_known(&name) {
                continue;
            }
            match &parameter.value {
                None => arguments.push(parameter.name.clone()),
                Some(value) => {
                    let prefix = alloc::format!("{}=", parameter.name);
                    environment.retain(|entry| !entry.starts_with(&prefix));
                    environment.push(prefix + value);
                }
            }
        }
        arguments.extend(self.to_init.iter().cloned());
        (arguments, environment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_linux_does() {
        let line = parse("  root=/dev/vda1 foo=\"a b\" \"bar=c d\" ro\tquiet\n");
        assert_eq!(line.value("root"), Some("/dev/vda1"));
        assert_eq!(line.value("foo"), Some("a b"));
        assert_eq!(line.value("bar"), Some("c d"));
        assert!(line.has("ro") && line.has("quiet") && !line.has("rw"));
        assert_eq!(line.value("ro"), None);
    }

    #[test]
    fn the_last_value_wins_and_dashes_are_underscores() {
        let line = parse("console=tty0 console=ttyS0,115200 log-buf-len=1M panic=-1 a=0x10 b=010");
        assert_eq!(line.value("console"), Some("ttyS0,115200"));
        assert_eq!(line.values("console").count(), 2);
        assert_eq!(line.value("log_buf_len"), Some("1M"));
        assert_eq!(line.number("panic"), Some(-1));
        assert_eq!(line.number("a"), Some(16));
        assert_eq!(line.number("b"), Some(8));
    }

    #[test]
    fn unknown_words_go_to_init() {
        let line = parse("root=/dev/sda single BOOT_IMAGE=/vmlinuz foo.bar=1 X=1 X=2 -- -v root=x");
        let (arguments, environment) = line.for_init(|name| name == "root");
        assert_eq!(arguments, ["single", "-v", "root=x"]);
        assert_eq!(environment, ["BOOT_IMAGE=/vmlinuz", "X=2"]);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_survived(line in ".*") {
            let parsed = parse(&line);
            let _ = parsed.for_init(|_| false);
            let _ = parsed.number("panic");
        }
    }
}
