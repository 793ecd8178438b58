//! Turns names into what may leave their home.

use residency::claims::Hash;
use ring::hmac;

/// What is hashed under this key for nothing else.
const NAME: &str = "domicile claim";
const OPERATION: &str = "domicile claim operation";
const KEY: &str = "domicile claim key";

/// The key of a service, the same at all its sites.
#[derive(Clone, Debug)]
pub(super) struct Hasher(hmac::Key);

// === impl Hasher ===

impl Hasher {
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// A name as it travels and is kept. As it stands: two spellings are two names.
    pub fn name(&self, service: &str, kind: &str, name: &str) -> Hash {
        self.over(&[NAME, service, kind, name])
    }

    /// The id of an operation: an application may have put anything into it.
    pub fn operation(&self, service: &str, operation: &str) -> Hash {
        self.over(&[OPERATION, service, operation])
    }

    /// By which sites find that they have the same key: with two keys a name would be two.
    pub fn key(&self) -> Hash {
        self.over(&[KEY])
    }

    /// Each part with its length before it, so that no two lists of parts are one text.
    fn over(&self, parts: &[&str]) -> Hash {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = Hash([0; 32]);
        for (to, from) in hash.0.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_all_its_parts_and_of_the_key() {
        let hasher = Hasher::new(&[7; 32]);
        let name = hasher.name("shop", "email", "ann@example.org");
        assert_eq!(name, hasher.name("shop", "email", "ann@example.org"));
        let others = [
            hasher.name("shop", "email", "Ann@example.org"),
            hasher.name("shop", "emaila", "nn@example.org"),
            hasher.name("shopemail", "", "ann@example.org"),
            hasher.operation("shop", "ann@example.org"),
            hasher.key(),
            Hasher::new(&[8; 32]).name("shop", "email", "ann@example.org"),
        ];
        for other in others {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn the_hash_is_hmac_sha256_over_lengths_and_parts() {
        let mut text = Vec::new();
        for part in ["domicile claim", "shop", "email", "ann"] {
            text.extend((part.len() as u64).to_be_bytes());
            text.extend(part.as_bytes());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
        let wanted = hmac::sign(&key, &text);
        let found = Hasher::new(&[1; 32]).name("shop", "email", "ann");
        assert_eq!(&found.0, wanted.as_ref());
    }
}
