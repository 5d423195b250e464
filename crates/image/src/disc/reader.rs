//! Reading an image's bytes.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::image::Image;
use crate::blob::{BlobDir, BlobId};
use crate::vfs::{Piece, ReadAt, Segment};

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

/// Blobs that a reader keeps open.
const OPEN_BLOBS: usize = 16;

/// Writes the bytes of one piece.
pub(super) fn write_piece(image: &Image, piece: &Piece, blobs: &BlobDir, to: &mut dyn Write) -> io::Result<()> {
    match &piece.segment {
        Segment::Bytes(bytes) => to.write_all(bytes),
        Segment::Zero { len } => {
            let mut left = *len;
            while left > 0 {
                let n = left.min(ZEROS.len() as u64);
                to.write_all(&ZEROS[..n as usize])?;
                left -= n;
            }
            Ok(())
        }
        Segment::Blob { id, offset, len } => {
            let mut file = blobs.file(id).map_err(|e| in_file(image, piece, e))?;
            file.seek(SeekFrom::Start(*offset))
                .map_err(|e| in_file(image, piece, e))?;
            let copied = io::copy(&mut BufReader::with_capacity(CHUNK, file.take(*len)), to)?;
            if copied < *len {
                return Err(in_file(image, piece, short(id)));
            }
            Ok(())
        }
    }
}

/// An image with the blobs that it needs: random access for those who do not serve by segments.
#[derive(Debug)]
pub struct ImageReader {
    image: Arc<Image>,
    blobs: Arc<BlobDir>,
    /// The one used last is at the end.
    open: Mutex<Vec<(BlobId, Arc<File>)>>,
}

impl ImageReader {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(image: Arc<Image>, blobs: Arc<BlobDir>) -> Self {
        Self {
            image,
            blobs,
            open: Mutex::new(Vec::new()),
        }
    }

    /// What is read.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    fn blob(&self, id: &BlobId) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match open.iter().position(|(open, _)| open == id) {
            Some(n) => open.remove(n),
            None => {
                if open.len() >= OPEN_BLOBS {
                    open.remove(0);
                }
                (*id, Arc::new(self.blobs.file(id)?))
            }
        };
        let file = Arc::clone(&entry.1);
        open.push(entry);
        Ok(file)
    }
}

impl ReadAt for ImageReader {
    fn len(&self) -> u64 {
        self.image.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len());
        let end = end.ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "read past the end of the image"))?;
        let mut rest = buf;
        for piece in self.image.iter(offset..end) {
            let (target, after) = rest.split_at_mut(piece.segment.len() as usize);
            rest = after;
            match &piece.segment {
                Segment::Bytes(bytes) => target.copy_from_slice(bytes),
                Segment::Zero { .. } => target.fill(0),
                Segment::Blob { id, offset, .. } => self
                    .blob(id)
                    .and_then(|file| {
                        file.read_exact_at(target, *offset).map_err(|e| match e.kind() {
                            ErrorKind::UnexpectedEof => short(id),
                            _ => e,
                        })
                    })
                    .map_err(|e| in_file(&self.image, &piece, e))?,
            }
        }
        Ok(())
    }
}

fn short(id: &BlobId) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("the blob {id} is shorter than it was when the base was built: import the base again"),
    )
}

fn in_file(image: &Image, piece: &Piece, error: io::Error) -> io::Error {
    let path = piece
        .file
        .and_then(|id| image.files().get(id.0 as usize))
        .map_or("(replaced)", |file| &file.path);
    io::Error::new(error.kind(), format!("cannot read \"{path}\" of the image: {error}"))
}
