//! How the far side ended a connection.

use std::fmt;
use std::io;

/// The end of a connection, seen from our side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// GOAWAY with this code, whatever came after it.
    GoAway(u32),
    /// A fatal alert of TLS, by its name.
    Alert(String),
    /// RST.
    Reset,
    /// FIN.
    Closed,
    /// Nobody listens, or nobody may.
    Refused,
    /// It did not end within the limit.
    Open,
    /// Anything else.
    Other(String),
}

/// GOAWAY or RST_STREAM with ENHANCE_YOUR_CALM (RFC 9113, 7).
pub const CALM: End = End::GoAway(11);

/// The names of the error codes, from 0 (RFC 9113, 7).
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The name of an error code.
pub fn code_name(code: u32) -> String {
    let name = usize::try_from(code).ok().and_then(|code| CODES.get(code));
    name.map_or_else(|| format!("{code:#x}"), |name| (*name).to_owned())
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::GoAway(code) => write!(f, "GOAWAY {}", code_name(*code)),
            End::Alert(name) => write!(f, "alert {name}"),
            End::Reset => f.write_str("reset"),
            End::Closed => f.write_str("closed"),
            End::Refused => f.write_str("refused"),
            End::Open => f.write_str("still open"),
            End::Other(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected,
            TimedOut, UnexpectedEof,
        };
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match (tls, error.kind()) {
            (Some(rustls::Error::AlertReceived(alert)), _) => End::Alert(format!("{alert:?}")),
            (_, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => End::Reset,
            (_, UnexpectedEof) => End::Closed,
            (_, ConnectionRefused) => End::Refused,
            (_, TimedOut) => End::Open,
            _ => End::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_named_as_the_standard_names_it() {
        assert_eq!(CALM.to_string(), "GOAWAY ENHANCE_YOUR_CALM");
        assert_eq!(End::GoAway(0).to_string(), "GOAWAY NO_ERROR");
        assert_eq!(code_name(0x77), "0x77");
        let reset = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(End::from(reset), End::Reset);
        let alert = rustls::AlertDescription::ProtocolVersion;
        let alert = io::Error::other(rustls::Error::AlertReceived(alert));
        assert_eq!(End::from(alert), End::Alert("ProtocolVersion".to_owned()));
    }
}
