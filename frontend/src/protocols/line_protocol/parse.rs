//! The grammar, one line at a time.

use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    Float(f64),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
    Text(Cow<'a, str>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// From 1.
    pub number: usize,
    pub measurement: Cow<'a, str>,
    pub tags: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    pub fields: Vec<(Cow<'a, str>, FieldValue<'a>)>,
    /// In the precision of the request.
    pub timestamp: Option<i64>,
}

/// Why a line was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// From 1, in characters; 0 if the line as a whole is at fault.
    pub column: usize,
    pub reason: String,
}

impl std::fmt::Display for BadLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}", self.line)?;
        if self.column > 0 {
            write!(f, ", column {}", self.column)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// All lines; a string value may contain line breaks. Empty lines and comments (`#`) are skipped.
pub fn parse_lines(text: &str) -> (Vec<Line<'_>>, Vec<BadLine>) {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let end = line_end(rest);
        let line = rest[..end].trim_end_matches('\r');
        let trimmed = line.trim_start_matches([' ', '\t']);
        if !trimmed.is_empty() && !trimmed.starts_with('#') {
            let mut cursor = Cursor {
                text: line,
                at: line.len() - trimmed.len(),
            };
            match cursor.line(number) {
                Ok(parsed) => lines.push(parsed),
                Err(reason) => {
                    let column = line[..cursor.at.min(line.len())].chars().count() + 1;
                    bad.push(BadLine {
                        line: number,
                        column,
                        reason,
                    });
                }
            }
        }
        number += rest[..end].matches('\n').count() + 1;
        rest = rest.get(end + 1..).unwrap_or("");
    }
    (lines, bad)
}

/// Position of the line break that ends the first line: the first one outside of a string value. A quote that is
/// never closed would swallow all that follows, so then the line ends at its first break.
pub(super) fn line_end(text: &str) -> usize {
    let first = text.find('\n').unwrap_or(text.len());
    let (mut quoted, mut escaped, mut in_fields) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            // Quotes mean something in the fields only.
            b' ' if !quoted => in_fields = true,
            b'"' if in_fields => quoted = !quoted,
            b'\n' if !quoted => return at,
            _ => {}
        }
    }
    if quoted { first } else { text.len() }
}

/// A place in a line.
pub(super) struct Cursor<'a> {
    pub text: &'a str,
    /// In bytes; where an error points to.
    pub at: usize,
}

/// Bytes that end a name, or escape one that does.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    special[b',' as usize] = true;
    special[b' ' as usize] = true;
    special[b'=' as usize] = true;
    special[b'\\' as usize] = true;
    special
};

impl<'a> Cursor<'a> {
    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn line(&mut self, number: usize) -> Result<Line<'a>, String> {
        let measurement = self.name(b", ", "a measurement")?;
        let mut tags = Vec::new();
        while self.peek() == Some(b',') {
            self.at += 1;
            let key = self.name(b"=, ", "a tag")?;
            self.expect(b'=', "after the name of a tag")?;
            let value = self.name(b", ", "the value of a tag")?;
            tags.push((key, value));
        }
        self.spaces("the fields")?;
        let mut fields = Vec::new();
        loop {
            let key = self.name(b"=, ", "a field")?;
            self.expect(b'=', "after the name of a field")?;
            fields.push((key, self.value()?));
            if self.peek() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        let timestamp = self.timestamp()?;
        Ok(Line {
            number,
            measurement,
            tags,
            fields,
            timestamp,
        })
    }

    pub fn expect(&mut self, byte: u8, place: &str) -> Result<(), String> {
        if self.peek() != Some(byte) {
            return Err(format!("expected `{}` {place}", byte as char));
        }
        self.at += 1;
        Ok(())
    }

    pub fn spaces(&mut self, before: &str) -> Result<(), String> {
        if self.peek() != Some(b' ') {
            return Err(format!("expected a space before {before}"));
        }
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        if self.peek().is_none() {
            return Err(format!("{before} are missing"));
        }
        Ok(())
    }

    /// Up to one of `ends`, with `\` before a special character taken away.
    pub fn name(&mut self, ends: &[u8], what: &str) -> Result<Cow<'a, str>, String> {
        let start = self.at;
        let mut escaped = false;
        while let Some(byte) = self.peek() {
            if !SPECIAL[byte as usize] {
                self.at += 1;
                continue;
            }
            if byte == b'\\'
                && self
                    .text
                    .as_bytes()
                    .get(self.at + 1)
                    .is_some_and(|b| b", =\\".contains(b))
            {
                escaped = true;
                self.at += 2;
                continue;
            }
            if ends.contains(&byte) {
                break;
            }
            self.at += 1;
        }
        let found = &self.text[start..self.at];
        if found.is_empty() {
            return Err(format!("expected {what}"));
        }
        Ok(if escaped {
            Cow::Owned(unescape(found, b", =\\"))
        } else {
            Cow::Borrowed(found)
        })
    }

    pub fn value(&mut self) -> Result<FieldValue<'a>, String> {
        if self.peek() == Some(b'"') {
            return self.text_value();
        }
        let start = self.at;
        while self.peek().is_some_and(|b| b != b',' && b != b' ') {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        let parsed = match word {
            "t" | "T" | "true" | "True" | "TRUE" => Some(FieldValue::Boolean(true)),
            "f" | "F" | "false" | "False" | "FALSE" => Some(FieldValue::Boolean(false)),
            _ => match word.as_bytes().last() {
                Some(b'i') => word[..word.len() - 1].parse().ok().map(FieldValue::Integer),
                Some(b'u') => word[..word.len() - 1].parse().ok().map(FieldValue::Unsigned),
                // Rust also reads `inf` and `nan`, which the protocol does not have.
                Some(b'0'..=b'9' | b'.') => word.parse().ok().map(FieldValue::Float),
                _ => None,
            },
        };
        parsed.ok_or_else(|| {
            self.at = start;
            match word {
                "" => "expected the value of a field".to_string(),
                _ => format!("`{word}` is not a number, a boolean or a string in quotes"),
            }
        })
    }

    fn text_value(&mut self) -> Result<FieldValue<'a>, String> {
        let open = self.at;
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                None => {
                    self.at = open;
                    return Err("the string is not closed".into());
                }
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(b'"') => break,
                Some(_) => self.at += 1,
            }
        }
        let found = &self.text[start..self.at];
        self.at += 1;
        if self.peek().is_some_and(|b| b != b',' && b != b' ') {
            return Err("expected `,` or a space after the string".into());
        }
        Ok(FieldValue::Text(if escaped {
            Cow::Owned(unescape(found, b"\"\\"))
        } else {
            Cow::Borrowed(found)
        }))
    }

    pub fn timestamp(&mut self) -> Result<Option<i64>, String> {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
        let word = self.text[self.at..].trim_end();
        if word.is_empty() {
            return Ok(None);
        }
        word.parse()
            .map(Some)
            .map_err(|_| format!("`{word}` is not a timestamp"))
    }
}

fn unescape(text: &str, special: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(next) if c == '\\' && next.is_ascii() && special.contains(&(*next as u8)) => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Line<'_> {
        let (mut lines, bad) = parse_lines(text);
        assert_eq!(bad, [], "{text}");
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }

    fn bad(text: &str) -> String {
        let (lines, bad) = parse_lines(text);
        assert_eq!(lines, [], "{text}");
        bad[0].to_string()
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let line = one(r#"cpu,host=a,dc=eu\ west f=1.5,i=-2i,u=3u,b=true,s="x, \"y\" = z\\" 1700"#);
        assert_eq!(line.measurement, "cpu");
        assert_eq!(
            line.tags,
            [("host".into(), "a".into()), ("dc".into(), "eu west".into())]
        );
        let values: Vec<_> = line.fields.into_iter().map(|(_, value)| value).collect();
        assert_eq!(
            values,
            [
                FieldValue::Float(1.5),
                FieldValue::Integer(-2),
                FieldValue::Unsigned(3),
                FieldValue::Boolean(true),
                FieldValue::Text(r#"x, "y" = z\"#.into())
            ]
        );
        assert_eq!(line.timestamp, Some(1700));
    }

    #[test]
    fn special_characters_are_escaped_in_names() {
        let line = one(r"my\ cpu,a\,b=c\=d e\=f=1");
        assert_eq!(line.measurement, "my cpu");
        assert_eq!(line.tags, [("a,b".into(), "c=d".into())]);
        assert_eq!(line.fields[0].0, "e=f");
        assert_eq!(line.timestamp, None);
    }

    #[test]
    fn a_wrong_line_is_named_with_its_column() {
        for (text, expected) in [
            ("cpu", "line 1, column 4: expected a space before the fields"),
            ("cpu value=", "line 1, column 11: expected the value of a field"),
            (
                "cpu value=abc",
                "line 1, column 11: `abc` is not a number, a boolean or a string in quotes",
            ),
            ("cpu value=1 soon", "line 1, column 13: `soon` is not a timestamp"),
            (
                "cpu,host value=1",
                "line 1, column 9: expected `=` after the name of a tag",
            ),
            (
                "cpu,host= value=1",
                "line 1, column 10: expected the value of a tag",
            ),
            ("cpu value=\"x", "line 1, column 11: the string is not closed"),
            (
                "cpu value=1i5",
                "line 1, column 11: `1i5` is not a number, a boolean or a string in quotes",
            ),
            (",host=a value=1", "line 1, column 1: expected a measurement"),
            (
                "cpu value",
                "line 1, column 10: expected `=` after the name of a field",
            ),
            (
                "ü,h=ä ö=x",
                "line 1, column 9: `x` is not a number, a boolean or a string in quotes",
            ),
        ] {
            assert_eq!(bad(text), expected, "{text}");
        }
    }

    #[test]
    fn good_lines_around_a_bad_one_are_kept() {
        let (lines, bad) = parse_lines("a v=1\n# comment\n\nb v=\r\nc v=3 7\r\nd s=\"two\nlines\"\ne v=");
        let names: Vec<_> = lines.iter().map(|l| (l.number, l.measurement.as_ref())).collect();
        assert_eq!(names, [(1, "a"), (5, "c"), (6, "d")]);
        assert_eq!(bad.iter().map(|b| b.line).collect::<Vec<_>>(), [4, 8]);
    }

    #[test]
    fn an_open_quote_spoils_its_own_line_only() {
        let (lines, bad) = parse_lines("a s=\"open\nb v=1\nc v=2");
        assert_eq!(lines.len(), 2);
        assert_eq!(bad[0].line, 1);
    }
}
