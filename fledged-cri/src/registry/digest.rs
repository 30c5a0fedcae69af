//! Computing digests, also while content is streamed.

use fledged_core::model::Digest;
use sha2::Digest as _;

/// A running digest, in the algorithm of an expected digest.
pub(crate) enum Digester {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Digester {
    /// A digester in the algorithm of `expected`.
    pub(crate) fn like(expected: &Digest) -> Self {
        match expected.algorithm() {
            "sha512" => Self::Sha512(sha2::Sha512::new()),
            "sha384" => Self::Sha384(sha2::Sha384::new()),
            _ => Self::Sha256(sha2::Sha256::new()),
        }
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all added bytes, as `algorithm:hex`.
    pub(crate) fn finish(self) -> String {
        let (algorithm, bytes): (&str, Vec<u8>) = match self {
            Self::Sha256(hash) => ("sha256", hash.finalize().to_vec()),
            Self::Sha384(hash) => ("sha384", hash.finalize().to_vec()),
            Self::Sha512(hash) => ("sha512", hash.finalize().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.len() + 1 + bytes.len() * 2);
        text.push_str(algorithm);
        text.push(':');
        for byte in bytes {
            for nibble in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        text
    }

    /// The digest of `bytes`, in the algorithm of `expected`.
    pub(crate) fn of(expected: &Digest, bytes: &[u8]) -> String {
        let mut digester = Self::like(expected);
        digester.update(bytes);
        digester.finish()
    }
}

/// The sha256 digest of `bytes`, with which registries name manifests.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut digester = Digester::Sha256(sha2::Sha256::new());
    digester.update(bytes);
    digester.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_the_algorithm_of_the_expected_digest() {
        let empty = [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ];
        for text in empty {
            let digest = Digest::parse(text).unwrap();
            assert_eq!(Digester::of(&digest, b""), text);
            assert_ne!(Digester::of(&digest, b"x"), text);
        }
        assert_eq!(sha256(b""), empty[0]);
    }
}
