//! Bytes of a disc as a response body. No thread waits for a slow client: each chunk is read when it is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use isobar_image::{BlobDir, BlobId, Image, Segment};

/// Bytes read at once: large enough for the disk, small enough to hold one for each client.
const CHUNK: u64 = 256 * 1024;

struct Reader {
    image: Arc<Image>,
    blobs: Arc<BlobDir>,
    open: HashMap<BlobId, File>,
    rest: Range<u64>,
}

/// The bytes `range` of an image.
pub(crate) fn body(image: Arc<Image>, blobs: Arc<BlobDir>, range: Range<u64>) -> Body {
    let reader = Reader {
        image,
        blobs,
        open: HashMap::new(),
        rest: range,
    };
    Body::from_stream(futures_util::stream::try_unfold(reader, async |mut reader| {
        if reader.rest.is_empty() {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || reader.next().map(|bytes| Some((bytes, reader))));
        read.await.map_err(io::Error::other)?
    }))
}

impl Reader {
    fn next(&mut self) -> io::Result<Bytes> {
        let end = self.rest.end.min(self.rest.start + CHUNK);
        let mut bytes = Vec::with_capacity(usize::try_from(end - self.rest.start).unwrap_or(0));
        for piece in self.image.pieces(self.rest.start..end) {
            let filled = bytes.len();
            let len = usize::try_from(piece.segment.len()).map_err(io::Error::other)?;
            match piece.segment {
                Segment::Bytes(part) => bytes.extend_from_slice(&part),
                Segment::Zero { .. } => bytes.resize(filled + len, 0),
                Segment::Blob { id, offset, .. } => {
                    bytes.resize(filled + len, 0);
                    let file = match self.open.entry(id) {
                        std::collections::hash_map::Entry::Occupied(open) => open.into_mut(),
                        std::collections::hash_map::Entry::Vacant(slot) => slot.insert(self.blobs.file(&id)?),
                    };
                    file.read_exact_at(&mut bytes[filled..], offset)?;
                }
            }
        }
        if bytes.len() as u64 != end - self.rest.start {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the disc is shorter than it says",
            ));
        }
        self.rest.start = end;
        Ok(bytes.into())
    }
}
