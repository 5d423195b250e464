//! ONC RPC (RFC 5531) calls and their answers.

use super::xdr::{Reader, Writer};

/// Longest machine name and group list that a caller may give (RFC 5531 §8.2: 400 bytes).
const CREDENTIALS: usize = 400;

/// Program numbers.
pub(crate) const PORTMAP: u32 = 100_000;
pub(crate) const MOUNT: u32 = 100_005;
pub(crate) const NFS: u32 = 100_003;

/// A call; its arguments are what is left of the message.
pub(crate) struct Call<'a> {
    pub(crate) xid: u32,
    pub(crate) program: u32,
    pub(crate) version: u32,
    pub(crate) procedure: u32,
    pub(crate) arguments: Reader<'a>,
}

/// What becomes of a call that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undone {
    NoProgram,
    /// Lowest and highest version there is.
    Version(u32, u32),
    NoProcedure,
    Garbage,
}

impl<'a> Call<'a> {
    /// None: no call at all, and the connection is of no use.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(message);
        let (xid, kind, rpc) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if (kind, rpc) != (0, 2) {
            return None;
        }
        let (program, version, procedure) = (reader.u32()?, reader.u32()?, reader.u32()?);
        // Credentials and verifier: who may read is a matter of the token.
        for _ in 0..2 {
            reader.u32()?;
            reader.opaque(CREDENTIALS)?;
        }
        Some(Self {
            xid,
            program,
            version,
            procedure,
            arguments: reader,
        })
    }

    /// Begins an accepted reply with room for the results.
    pub(crate) fn reply(&self) -> Writer {
        let mut reply = Writer::default();
        reply.u32s(&[self.xid, 1, 0, 0, 0, 0]);
        reply
    }

    pub(crate) fn refuse(&self, why: Undone) -> Writer {
        let mut reply = Writer::default();
        reply.u32s(&[self.xid, 1, 0, 0, 0]);
        match why {
            Undone::NoProgram => reply.u32(1),
            Undone::Version(low, high) => reply.u32s(&[2, low, high]),
            Undone::NoProcedure => reply.u32(3),
            Undone::Garbage => reply.u32(4),
        };
        reply
    }
}
