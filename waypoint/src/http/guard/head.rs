//! A whole head of a request: whether it can be read in one way only, and what follows it.

use super::Violation;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What the guard must know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) framing: Framing,
    /// Whether other bytes than HTTP may follow: `Upgrade`, or CONNECT.
    pub(super) upgrades: bool,
}

#[derive(Default)]
struct Fields {
    length: Option<u64>,
    is_chunked: bool,
    hosts: usize,
    upgrades: bool,
}

impl Head {
    /// Reads a head that ends with its empty line; every line of it ends with CR LF.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Violation> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(without_cr);
        let first = lines.by_ref().find(|line| !line.is_empty());
        let line = RequestLine::read(first.unwrap_or_default())?;
        let mut fields = Fields::default();
        for line in lines.take_while(|line| !line.is_empty()) {
            fields.add(line)?;
        }
        if fields.is_chunked && fields.length.is_some() {
            return refuse("Content-Length and Transfer-Encoding are both there");
        }
        if fields.is_chunked && !line.is_1_1 {
            return refuse("HTTP/1.0 has no Transfer-Encoding");
        }
        if fields.hosts > 1 || (line.is_1_1 && fields.hosts == 0) {
            return refuse("there must be one Host");
        }
        let framing = match fields.is_chunked {
            true => Framing::Chunked,
            false => Framing::Length(fields.length.unwrap_or(0)),
        };
        if line.is_connect && framing != Framing::Length(0) {
            return refuse("CONNECT has no body");
        }
        Ok(Self {
            framing,
            upgrades: line.is_connect || (fields.upgrades && line.is_1_1),
        })
    }
}

struct RequestLine {
    is_connect: bool,
    is_1_1: bool,
}

impl RequestLine {
    fn read(line: &[u8]) -> Result<Self, Violation> {
        let mut parts = line.split(|byte| *byte == b' ');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let [Some(method), Some(target), Some(version), None] = parts else {
            return refuse("a request line is a method, a target and a version");
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return refuse("the method is no token");
        }
        let is_visible = |byte: &u8| *byte > b' ' && *byte != 0x7f;
        if target.is_empty() || !target.iter().all(is_visible) {
            return refuse("the target holds a character that it cannot have");
        }
        let is_1_1 = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return refuse("the version is neither HTTP/1.1 nor HTTP/1.0"),
        };
        Ok(Self {
            is_connect: method == b"CONNECT",
            is_1_1,
        })
    }
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), Violation> {
        let (name, value) = field(line)?;
        // By length first: a head has many fields and few of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                if !value.iter().all(|byte| is_host(*byte)) {
                    return refuse("Host is no authority");
                }
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrades = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return refuse("Content-Length is there twice");
                }
                self.length = Some(length(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return refuse("Transfer-Encoding is not `chunked` alone");
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Name and value of a line, the value without spaces around it.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return refuse("a field goes on in the next line (obs-fold)");
    }
    let Some(colon) = line.iter().position(|byte| !is_token(*byte)) else {
        return refuse("a field has no colon");
    };
    let (name, value) = line.split_at(colon);
    if name.is_empty() || value[0] != b':' {
        return refuse("the name of a field is no token");
    }
    let value = &value[1..];
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if !value.iter().all(is_text) {
        return refuse("a value holds a control character");
    }
    Ok((name, value.trim_ascii()))
}

fn length(value: &[u8]) -> Result<u64, Violation> {
    // 18 digits fit into 63 bits, with which hyper counts.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return refuse("Content-Length is no number");
    }
    let digit = |sum: u64, byte: &u8| sum * 10 + u64::from(byte - b'0');
    Ok(value.iter().fold(0, digit))
}

pub(super) fn refuse<T>(why: &'static str) -> Result<T, Violation> {
    Err(Violation::Syntax(why))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = true;
        }
        byte += 1;
    }
    table
};

/// RFC 3986 3.2.2, 3.2.3, without user information and lists.
pub(super) fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(&byte)
}
