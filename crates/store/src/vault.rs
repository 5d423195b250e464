//! Secrets at rest.

/// The key file and what is derived from it.
///
/// The master key is 32 random bytes in a file of mode 0600 beside the store.
pub struct Vault {
    #[allow(dead_code)]
    master: [u8; 32],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(..)")
    }
}

/// What can go wrong with sealed bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// Another key, or damaged bytes.
    #[error("cannot be decrypted with the key in the key file: {0}")]
    Sealed(&'static str),
    /// The key file.
    #[error("the key file {path}: {source}")]
    KeyFile {
        /// Where.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A secure param's value on the wire and at rest: a NaCl box made for the object's public key. Members are base64.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SealedParam {
    /// Ephemeral public key of the sender.
    pub key: String,
    /// 24 bytes.
    pub nonce: String,
    /// Ciphertext with MAC.
    pub payload: String,
}

impl Vault {
    /// Opens the key file, or makes it.
    ///
    /// # Errors
    /// When it cannot be read, made, or is readable by others than its owner.
    pub fn open(_path: &std::path::Path) -> Result<Self, VaultError> {
        todo!()
    }
    /// Encrypts bytes for the store; `context` (kind and key) is bound in as associated data.
    #[must_use]
    pub fn seal(&self, _context: &str, _clear: &[u8]) -> Vec<u8> {
        todo!()
    }
    /// The reverse of [`Vault::seal`].
    ///
    /// # Errors
    /// Another key, another context, or damaged bytes.
    pub fn open_sealed(&self, _context: &str, _sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        todo!()
    }
    /// Public key (X25519, 32 bytes) of an object's secure params; derived, nothing is stored.
    #[must_use]
    pub fn param_public_key(&self, _kind: &str, _key: &str) -> [u8; 32] {
        todo!()
    }
    /// Makes the box that a client would make.
    #[must_use]
    pub fn seal_param(&self, _kind: &str, _key: &str, _json: &[u8]) -> SealedParam {
        todo!()
    }
    /// Opens a box made for an object's public key: the JSON text of the value.
    ///
    /// # Errors
    /// Made for another key, or damaged.
    pub fn open_param(&self, _kind: &str, _key: &str, _sealed: &SealedParam) -> Result<Vec<u8>, VaultError> {
        todo!()
    }
}
