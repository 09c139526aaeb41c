//! `#!` lines (`execve(2)`, "Interpreter scripts").

use abi::Errno;

/// How much of the file is read.
pub const HEAD_LEN: usize = 256;
/// How much of it is the line at most: the rest of an argument is cut off (execve(2), "Interpreter
/// scripts").
const LINE_LEN: usize = HEAD_LEN - 1;
/// How deep interpreters may nest before `ELOOP`.
pub const MAX_DEPTH: u32 = 5;

/// Interpreter and its optional argument.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub struct Interpreter<'a> {
    /// The program.
    pub path: &'a [u8],
    /// Everything after it, as one argument.
    pub argument: Option<&'a [u8]>,
}

/// Parses the first bytes of a file; `None` when it is no script, `ENOEXEC` when the line names no
/// interpreter or its path does not end inside the head.
pub fn parse(head: &[u8]) -> Result<Option<Interpreter<'_>>, Errno> {
    let seen = head.get(..head.len().min(LINE_LEN)).unwrap_or_default();
    let Some(rest) = seen.strip_prefix(b"#!") else { return Ok(None) };
    let line_end = rest.iter().position(|&b| b == b'\n' || b == 0);
    let complete = line_end.is_some();
    let line = rest.get(..line_end.unwrap_or(rest.len())).unwrap_or_default();
    let line = trim_start(line);
    if line.is_empty() {
        // Linux looks at a buffer that is zero behind the end of the file: a file that ends there
        // names the empty path, which is the working directory.
        let ends_here = rest.len() == line_end.unwrap_or(rest.len());
        return Err(if ends_here { Errno::EACCES } else { Errno::ENOEXEC });
    }
    let blank = line.iter().position(|&b| b == b' ' || b == b'\t');
    let Some(blank) = blank else {
        let ends_there = matches!(head.get(LINE_LEN), None | Some(b' ' | b'\t' | b'\n' | 0));
        // A path cut off by the end of the head could name another program.
        return if complete || ends_there {
            Ok(Some(Interpreter { path: line, argument: None }))
        } else {
            Err(Errno::ENOEXEC)
        };
    };
    let (path, tail) = line.split_at(blank);
    let argument = trim_end(trim_start(tail));
    Ok(Some(Interpreter { path, argument: (!argument.is_empty()).then_some(argument) }))
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_path_and_argument() {
        let parsed = parse(b"#! /bin/sh -e  x \nrest").expect("ok").expect("script");
        assert_eq!(parsed.path, b"/bin/sh");
        assert_eq!(parsed.argument, Some(&b"-e  x"[..]));
        assert_eq!(parse(b"#!/bin/sh").expect("ok").expect("script").argument, None);
        assert_eq!(parse(b"\x7fELF"), Ok(None));
        assert_eq!(parse(b"#!"), Err(Errno::EACCES));
        assert_eq!(parse(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"#!   \t\n"), Err(Errno::ENOEXEC));
    }

    #[test]
    fn refuses_a_path_cut_by_the_head() {
        let mut long = [b'a'; HEAD_LEN];
        long[0] = b'#';
        long[1] = b'!';
        assert_eq!(parse(&long), Err(Errno::ENOEXEC));
        long[100] = b' ';
        assert!(parse(&long).expect("ok").is_some());
    }
}
