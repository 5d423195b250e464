//! The little-endian form in which bases and deltas are kept: magic, version, body, SHA-256 of all that.

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// What is wrong with stored bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("{0}")]
    Damaged(&'static str),
    #[error("format version {0}")]
    Version(u16),
}

/// Length of the seal at the end: a SHA-256.
const SEAL: usize = 32;

/// Builds a sealed form.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(magic: [u8; 8], version: u16, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + magic.len() + 2 + SEAL);
        bytes.extend_from_slice(&magic);
        bytes.extend_from_slice(&version.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }

    /// A number of items that are in memory, so that it fits.
    pub(crate) fn count(&mut self, n: usize) {
        self.u64(n as u64);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with their length before them.
    pub(crate) fn sized(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn seal(mut self) -> Bytes {
        let seal = Sha256::digest(&self.0);
        self.0.extend_from_slice(&seal);
        Bytes::from(self.0)
    }
}

/// Reads a sealed form; every read is checked.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Checks magic, version (any up to `version`) and seal.
    pub(crate) fn open(bytes: &'a [u8], magic: [u8; 8], version: u16) -> Result<Self, WireError> {
        let body_len = bytes.len().checked_sub(SEAL).ok_or(WireError::Damaged("too short"))?;
        let (body, seal) = bytes.split_at(body_len);
        let mut reader = Self { bytes: body, at: 0 };
        if reader.raw(magic.len())? != magic {
            return Err(WireError::Damaged("not of this kind"));
        }
        let found = u16::from_le_bytes(reader.array()?);
        if found == 0 || found > version {
            return Err(WireError::Version(found));
        }
        if Sha256::digest(body)[..] != *seal {
            return Err(WireError::Damaged("the checksum does not match"));
        }
        Ok(reader)
    }

    /// As [`Reader::open`] for bytes that this process has just sealed.
    pub(crate) fn open_trusted(bytes: &'a [u8], magic: [u8; 8]) -> Self {
        Self {
            bytes: &bytes[..bytes.len() - SEAL],
            at: magic.len() + 2,
        }
    }

    /// Position from the start of the sealed form.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn raw(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let end = self
            .at
            .checked_add(len)
            .ok_or(WireError::Damaged("a length is too big"))?;
        let slice = self.bytes.get(self.at..end).ok_or(WireError::Damaged("cut short"))?;
        self.at = end;
        Ok(slice)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut out = [0; N];
        out.copy_from_slice(self.raw(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of items. It may be a lie: callers reserve memory for a bounded number of them.
    pub(crate) fn count(&mut self) -> Result<usize, WireError> {
        usize::try_from(self.u64()?).map_err(|_| WireError::Damaged("a count is too big"))
    }

    pub(crate) fn sized(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.count()?;
        self.raw(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.sized()?).map_err(|_| WireError::Damaged("a name is not UTF-8"))
    }

    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(WireError::Damaged("bytes are left over"))
        }
    }
}

/// The seal of a sealed form.
pub(crate) fn seal_of(bytes: &[u8]) -> [u8; SEAL] {
    let mut seal = [0; SEAL];
    seal.copy_from_slice(&bytes[bytes.len() - SEAL..]);
    seal
}
