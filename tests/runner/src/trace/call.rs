//! One call, as far as two tracers agree on how to write it.

/// Calls whose result is an address, an identifier or a time, which two runs never share.
const OWN_RESULT: &[&str] = &[
    "mmap",
    "mremap",
    "brk",
    "shmat",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "wait4",
    "waitid",
    "getpid",
    "gettid",
    "getppid",
    "getpgrp",
    "getpgid",
    "getsid",
    "setsid",
    "set_tid_address",
    "time",
    "times",
    "getrandom",
    "futex",
    "shmget",
    "semget",
    "msgget",
    "timer_create",
];
/// Calls whose numbers among the arguments are of that kind.
const OWN_ARGUMENTS: &[&str] = &[
    "kill",
    "tkill",
    "tgkill",
    "wait4",
    "waitid",
    "setpgid",
    "getpgid",
    "getsid",
    "ioctl",
    "prlimit64",
    "mmap",
    "munmap",
    "mprotect",
    "mremap",
    "madvise",
    "brk",
    "clone",
    "clone3",
    "rt_sigaction",
];
/// Beyond, a number may be an address.
const SMALL: i64 = 1 << 20;

/// What a call returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Value(String),
    Error(String),
}

/// A call that came back.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    arguments: Vec<String>,
    outcome: Outcome,
    /// The line, as the tracer wrote it.
    pub(crate) text: String,
}

impl Call {
    /// Reads `name(arguments) = result`; `None` for lines about anything else, and for calls that do
    /// not come back.
    pub(crate) fn parse(line: &str) -> Option<Call> {
        let open = line.find('(')?;
        let name = line.get(..open)?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return None;
        }
        let (arguments, end) = arguments(line.get(open + 1..)?)?;
        let result = line.get(open + 1 + end..)?.trim_start().strip_prefix('=')?.trim();
        let outcome = match result.strip_prefix("-1 ") {
            Some(error) => Outcome::Error(first_word(error)),
            None if result.starts_with('?') => return None,
            None => Outcome::Value(first_word(result)),
        };
        Some(Call { name: same_name(name).into(), arguments, outcome, text: line.into() })
    }

    /// Whether both are the same call with the same outcome, as far as can be told.
    pub(crate) fn agrees_with(&self, other: &Call) -> bool {
        if self.name != other.name {
            return false;
        }
        let is_own = OWN_RESULT.contains(&self.name.as_str());
        let same_outcome = match (&self.outcome, &other.outcome) {
            (Outcome::Value(left), Outcome::Value(right)) => {
                is_own || number(left).is_none() || number(right).is_none() || left == right
            }
            (left, right) => left == right,
        };
        let with_numbers = !OWN_ARGUMENTS.contains(&self.name.as_str());
        let pairs = self.arguments.iter().zip(&other.arguments);
        same_outcome && pairs.into_iter().all(|(a, b)| same_argument(a, b, with_numbers))
    }
}

/// Splits at the commas of the outermost level, up to the closing parenthesis; where that ends.
fn arguments(text: &str) -> Option<(Vec<String>, usize)> {
    let (mut list, mut depth, mut start) = (Vec::new(), 0, 0);
    let mut in_string = false;
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b')' if depth == 0 => {
                let last = text[start..at].trim();
                if !last.is_empty() {
                    list.push(last.into());
                }
                return Some((list, at + 1));
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                list.push(text[start..at].trim().into());
                start = at + 1;
            }
            _ => {}
        }
    }
    None
}

fn same_argument(left: &str, right: &str, with_numbers: bool) -> bool {
    if let (Some(left), Some(right)) = (string(left), string(right)) {
        // One tracer may show less than the other.
        let len = left.len().min(right.len());
        let is_cut = left.ends_with("...") || right.ends_with("...");
        return left == right || is_cut && left[..len.min(24)] == right[..len.min(24)];
    }
    match (number(left), number(right)) {
        (Some(left), Some(right)) if with_numbers => left == right || left.max(right) > SMALL,
        _ => true,
    }
}

/// A quoted string without control characters, which the tracers escape differently.
fn string(text: &str) -> Option<&str> {
    let body = text.strip_prefix('"')?;
    (!body.contains('\\') && body.is_ascii()).then(|| match body.strip_suffix('"') {
        Some(whole) => whole,
        None => body,
    })
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().into()
}

/// strace has other names for some calls.
fn same_name(name: &str) -> &str {
    match name {
        "fstatat64" => "newfstatat",
        "sendfile64" => "sendfile",
        "umount" => "umount2",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str) -> Call {
        Call::parse(text).unwrap()
    }

    #[test]
    fn reads_calls() {
        let open = call("openat(AT_FDCWD, \"/a,b)\", O_RDONLY|O_CLOEXEC) = 3");
        assert_eq!((open.name.as_str(), open.arguments.len()), ("openat", 3));
        assert_eq!(open.outcome, Outcome::Value("3".into()));
        let failed = call("stat(\"/x\", 0x7ffd) = -1 ENOENT (No such file or directory)");
        assert_eq!(failed.outcome, Outcome::Error("ENOENT".into()));
        assert!(Call::parse("exit_group(0)                           = ?").is_none());
        assert!(Call::parse("--- SIGCHLD {si_signo=SIGCHLD, si_pid=5} ---").is_none());
        assert!(Call::parse("+++ exited with 0 +++").is_none());
    }

    #[test]
    fn compares_what_both_tell() {
        let linux = call("read(3, \"\\177ELF\\2\"..., 832) = 832");
        assert!(linux.agrees_with(&call("read(3, 0x7ffc10, 832) = 832 \"\\x7fELF\"")));
        assert!(!linux.agrees_with(&call("read(4, 0x7ffc10, 832) = 832")));
        assert!(!linux.agrees_with(&call("read(3, 0x7ffc10, 832) = -1 EIO")));
        assert!(!linux.agrees_with(&call("pread64(3, 0x7ffc10, 832) = 832")));
        assert!(
            call("mmap(NULL, 4096, 3, 34, -1, 0) = 0x7f00")
                .agrees_with(&call("mmap(0, 4096, PROT_READ, MAP_PRIVATE, -1, 0) = 0x5500"))
        );
        assert!(!call("access(\"/a\", R_OK) = 0").agrees_with(&call("access(\"/b\", 4) = 0")));
    }
}
