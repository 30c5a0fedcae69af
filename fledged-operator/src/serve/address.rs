//! Where to listen, in the words of controller-runtime.

use std::fmt;

/// An address to listen at: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAddress {
    /// The host as written, without brackets; empty for every address of the machine.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a text is not an address to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid bind address {value:?}: {problem}; write :8080, 127.0.0.1:8080 or [::1]:8080, or 0 for none"
)]
pub struct InvalidBindAddress {
    value: String,
    problem: &'static str,
}

impl BindAddress {
    /// Reads an address; `None` where nothing is to listen: `0` or nothing at all, as in
    /// controller-runtime's `--metrics-bind-address`. Port 0 takes any that is free.
    ///
    /// # Errors
    ///
    /// [`InvalidBindAddress`], which says what is wrong.
    pub fn parse(value: &str) -> Result<Option<Self>, InvalidBindAddress> {
        let invalid = |problem| InvalidBindAddress {
            value: value.to_owned(),
            problem,
        };
        let text = value.trim();
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| invalid("the port is missing"))?;
        let port = port
            .parse()
            .map_err(|_| invalid("the port must be a number from 0 to 65535"))?;
        let bracketed = host.strip_prefix('[').map(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(None) => return Err(invalid("the bracket is not closed")),
            Some(Some(host)) => host,
            None if host.contains(':') => {
                return Err(invalid("an IPv6 address must be in brackets"));
            }
            None => host,
        };
        if host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(invalid("the host must be an address or a name"));
        }
        Ok(Some(Self {
            host: host.to_owned(),
            port,
        }))
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_for_controller_runtime() {
        for none in ["", "0", " "] {
            assert_eq!(BindAddress::parse(none), Ok(None));
        }
        for text in [":8080", "127.0.0.1:0", "[::1]:9443", "localhost:8081"] {
            let address = BindAddress::parse(text).unwrap().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("8080", "port is missing"),
            (":http", "must be a number"),
            (":70000", "must be a number"),
            ("::1:8080", "in brackets"),
            ("[::1:8080", "not closed"),
            ("http://0.0.0.0:8080", "in brackets"),
            ("a b:1", "address or a name"),
        ] {
            let error = BindAddress::parse(text).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(text), "{error}");
        }
    }
}
