//! XDR (RFC 4506), as far as ONC RPC and NFS need it. What is read comes from strangers: nothing is allocated by a length
//! that they say.

/// Reads a message from its front.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Bytes with their length before them, `most` of them at most.
    pub(crate) fn opaque(&mut self, most: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok().filter(|len| *len <= most)?;
        let bytes = self.take(len)?;
        self.take(len.next_multiple_of(4) - len)?;
        Some(bytes)
    }
}

/// Writes a message at its end.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u32s(&mut self, values: &[u32]) -> &mut Self {
        for value in values {
            self.u32(*value);
        }
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Bytes of at most a reply's length.
    pub(crate) fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
        self.pad(bytes.len())
    }

    pub(crate) fn pad(&mut self, len: usize) -> &mut Self {
        self.0.resize(self.0.len() + len.next_multiple_of(4) - len, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_lies_about_lengths_are_not_believed() {
        let mut writer = Writer::default();
        writer.u32(7).u64(1 << 40).opaque(b"hello").u32(9);
        let mut reader = Reader(&writer.0);
        assert_eq!((reader.u32(), reader.u64()), (Some(7), Some(1 << 40)));
        assert_eq!(reader.opaque(5), Some(&b"hello"[..]));
        assert_eq!((reader.u32(), reader.u32()), (Some(9), None));
        assert_eq!(Reader(&[255, 255, 255, 255, 1]).opaque(usize::MAX), None);
        assert_eq!(Reader(&[0, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0]).opaque(4), None);
        assert_eq!(
            Reader(&[0, 0, 0, 5, 1, 2, 3, 4, 5]).opaque(5),
            None,
            "without its padding"
        );
    }
}
