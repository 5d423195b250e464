//! Secrets at rest.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use hkdf::Hkdf;
use rand::TryRng as _;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const KEY_LEN: usize = 32;
/// First byte of sealed bytes: how the rest is to be read. 1: 24 bytes nonce, then XChaCha20-Poly1305.
const FORMAT: u8 = 1;
/// Of both XChaCha20-Poly1305 and the NaCl box: long enough to be drawn at random for ever.
const NONCE_LEN: usize = 24;

/// Boxes whose contents are remembered, and how long one of them may be.
const OPENED: usize = 1024;
const OPENED_LEN: usize = 4096;

/// The key file and what is derived from it.
///
/// The master key is 32 random bytes in a file of mode 0600 beside the store.
pub struct Vault {
    master: Zeroizing<[u8; KEY_LEN]>,
    /// What was in boxes, by the hash of object and box: to open one takes longer than everything else that is done for
    /// a param, and a fleet has one password many times.
    opened: Mutex<HashMap<[u8; 32], Zeroizing<Vec<u8>>>>,
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
    /// Others than its owner can read the key file.
    #[error("the key file {path} has mode {mode:04o}, so others can read it: chmod 600 {path}")]
    Exposed {
        /// Where.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file does not hold 32 bytes.
    #[error("the key file {path} has {len} bytes instead of {KEY_LEN}: put the right file back from a backup")]
    NotAKey {
        /// Where.
        path: String,
        /// Its length.
        len: usize,
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
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let failed = |source| VaultError::KeyFile {
            path: path.display().to_string(),
            source,
        };
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                create(path).map_err(failed)?;
                File::open(path).map_err(failed)?
            }
            Err(e) => return Err(failed(e)),
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(VaultError::Exposed {
                path: path.display().to_string(),
                mode,
            });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LEN + 1));
        Read::by_ref(&mut file)
            .take(KEY_LEN as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        let master = <[u8; KEY_LEN]>::try_from(bytes.as_slice()).map_err(|_| VaultError::NotAKey {
            path: path.display().to_string(),
            len: bytes.len(),
        })?;
        Ok(Self::of(master))
    }

    /// A vault whose key is in memory only: for stores that are, too.
    #[must_use]
    pub fn ephemeral() -> Self {
        Self::of(random())
    }

    fn of(master: [u8; KEY_LEN]) -> Self {
        Self {
            master: Zeroizing::new(master),
            opened: Mutex::default(),
        }
    }

    /// Encrypts bytes for the store; `context` (kind and key) is bound in as associated data.
    #[must_use]
    pub fn seal(&self, context: &str, clear: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random();
        let payload = Payload {
            msg: clear,
            aad: &associated(context),
        };
        let sealed = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), payload)
            .unwrap_or_else(|_| unreachable!("only fails above 256 GiB"));
        let mut out = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// The reverse of [`Vault::seal`].
    ///
    /// # Errors
    /// Another key, another context, or damaged bytes.
    pub fn open_sealed(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let (&format, rest) = sealed.split_first().ok_or(VaultError::Sealed("there is nothing"))?;
        if format != FORMAT {
            return Err(VaultError::Sealed("made by a newer isobar, or not sealed at all"));
        }
        let (nonce, msg) = rest
            .split_at_checked(NONCE_LEN)
            .ok_or(VaultError::Sealed("cut short"))?;
        let payload = Payload {
            msg,
            aad: &associated(context),
        };
        self.cipher()
            .decrypt(XNonce::from_slice(nonce), payload)
            .map_err(|_| VaultError::Sealed("another key, or damaged"))
    }

    /// Public key (X25519, 32 bytes) of an object's secure params; derived, nothing is stored.
    #[must_use]
    pub fn param_public_key(&self, kind: &str, key: &str) -> [u8; 32] {
        *self.param_secret_key(kind, key).public_key().as_bytes()
    }

    /// Makes the box that a client would make.
    #[must_use]
    pub fn seal_param(&self, kind: &str, key: &str, json: &[u8]) -> SealedParam {
        seal_for(self.param_public_key(kind, key), json)
    }

    /// Opens a box made for an object's public key: the JSON text of the value.
    ///
    /// # Errors
    /// Made for another key, or damaged.
    pub fn open_param(&self, kind: &str, key: &str, sealed: &SealedParam) -> Result<Vec<u8>, VaultError> {
        let mut hash = Sha256::new();
        for part in [kind, key, &sealed.key, &sealed.nonce, &sealed.payload] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let id: [u8; 32] = hash.finalize().into();
        let opened = || self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clear) = opened().get(&id) {
            return Ok(clear.to_vec());
        }
        let clear = self.unbox(kind, key, sealed)?;
        if clear.len() <= OPENED_LEN {
            let mut opened = opened();
            if opened.len() >= OPENED {
                opened.clear();
            }
            opened.insert(id, Zeroizing::new(clear.clone()));
        }
        Ok(clear)
    }

    fn unbox(&self, kind: &str, key: &str, sealed: &SealedParam) -> Result<Vec<u8>, VaultError> {
        let sender: [u8; KEY_LEN] = member(&sealed.key, "Key is not 32 bytes of base64")?;
        let nonce: [u8; NONCE_LEN] = member(&sealed.nonce, "Nonce is not 24 bytes of base64")?;
        let payload = BASE64
            .decode(&sealed.payload)
            .map_err(|_| VaultError::Sealed("Payload is not base64"))?;
        SalsaBox::new(&PublicKey::from(sender), &self.param_secret_key(kind, key))
            .decrypt(&nonce.into(), payload.as_slice())
            .map_err(|_| VaultError::Sealed("made for another public key, or damaged"))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.derive(&[b"isobar seal 1"]).as_slice().into())
    }

    fn param_secret_key(&self, kind: &str, key: &str) -> SecretKey {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        let length = (kind.len() as u64).to_be_bytes();
        let secret = self.derive(&[b"isobar param 1", &length, kind.as_bytes(), key.as_bytes()]);
        SecretKey::from(*secret)
    }

    fn derive(&self, info: &[&[u8]]) -> Zeroizing<[u8; KEY_LEN]> {
        let mut out = Zeroizing::new([0; KEY_LEN]);
        Hkdf::<Sha256>::new(None, self.master.as_slice())
            .expand_multi_info(info, out.as_mut_slice())
            .unwrap_or_else(|_| unreachable!("32 bytes are fewer than 255 hashes"));
        out
    }
}

/// Makes a box for a public key, with an ephemeral key of its own: a NaCl `crypto_box`.
#[must_use]
pub fn seal_for(public_key: [u8; 32], json: &[u8]) -> SealedParam {
    let ephemeral = SecretKey::from(random::<KEY_LEN>());
    let nonce: [u8; NONCE_LEN] = random();
    let payload = SalsaBox::new(&PublicKey::from(public_key), &ephemeral)
        .encrypt(&nonce.into(), json)
        .unwrap_or_else(|_| unreachable!("only fails above 256 GiB"));
    SealedParam {
        key: BASE64.encode(ephemeral.public_key().as_bytes()),
        nonce: BASE64.encode(nonce),
        payload: BASE64.encode(payload),
    }
}

fn associated(context: &str) -> Vec<u8> {
    [&[FORMAT], context.as_bytes()].concat()
}

fn member<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], VaultError> {
    let bytes = BASE64.decode(text).map_err(|_| VaultError::Sealed(what))?;
    bytes.try_into().map_err(|_| VaultError::Sealed(what))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .unwrap_or_else(|e| panic!("the system has no random numbers, nothing can be kept secret: {e}"));
    bytes
}

/// Makes the key file whole or not at all, and never over an existing one.
fn create(path: &Path) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", u64::from_ne_bytes(random())));
    let new = folder.join(name);
    let key = Zeroizing::new(random::<KEY_LEN>());
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(key.as_slice())?;
            file.sync_all()
        })
        // A link, unlike a rename, does not replace what another process made meanwhile.
        .and_then(|()| std::fs::hard_link(&new, path));
    let removed = std::fs::remove_file(&new);
    match written {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
        _ => removed?,
    }
    File::open(folder)?.sync_all()
}
