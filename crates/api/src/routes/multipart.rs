//! An upload as a form has it (RFC 7578): the file is one part of the body.

use std::fs::File;
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::ops::Range;

/// Longest headers of a part, in bytes.
const MAX_HEADERS: usize = 16 * 1024;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;
/// Parts that are looked at.
const MAX_PARTS: usize = 64;

/// The boundary between parts, when a content type is that of a form.
pub(super) fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let parameters = parameters.split(';').filter_map(|one| one.trim().split_once('='));
    let mut named = parameters.filter(|(name, _)| name.eq_ignore_ascii_case("boundary"));
    named
        .next()
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
}

/// Where the part called `file` lies in a body; none when there is none that ends.
///
/// # Errors
/// Of reading.
pub(super) fn part(body: &mut File, boundary: &str) -> Result<Option<Range<u64>>> {
    // A line of its own; the first one may be the first of the body.
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let first = &delimiter[2..];
    body.rewind()?;
    let mut head = vec![0; first.len()];
    let mut at = match body.read_exact(&mut head) {
        Ok(()) if head == first => first.len() as u64,
        _ => match find(body, 0, &delimiter)? {
            Some(found) => found + delimiter.len() as u64,
            None => return Ok(None),
        },
    };
    for _ in 0..MAX_PARTS {
        body.seek(SeekFrom::Start(at))?;
        let mut text = Vec::new();
        Read::by_ref(body).take(MAX_HEADERS as u64).read_to_end(&mut text)?;
        // After the last one stand two dashes.
        let Some(headers) = text.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let begin = at + headers as u64 + 4;
        // An empty part's delimiter begins with the end of its headers.
        let Some(end) = find(body, begin - 2, &delimiter)? else {
            return Ok(None);
        };
        if is_file(&String::from_utf8_lossy(&text[..headers])) {
            return Ok(Some(begin..end.max(begin)));
        }
        at = end + delimiter.len() as u64;
    }
    Ok(None)
}

/// Copies a part of one file to another, which is then at its begin.
///
/// # Errors
/// Of reading and writing.
pub(super) fn cut_out(body: &mut File, part: &Range<u64>, mut to: File) -> Result<File> {
    body.seek(SeekFrom::Start(part.start))?;
    std::io::copy(&mut body.take(part.end - part.start), &mut to)?;
    to.flush()?;
    to.rewind()?;
    Ok(to)
}

fn is_file(headers: &str) -> bool {
    let disposition = headers.lines().filter_map(|line| line.split_once(':'));
    let mut disposition = disposition.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let named = |value: &str| {
        let mut parameters = value.split(';').filter_map(|one| one.trim().split_once('='));
        parameters.any(|(name, value)| name.eq_ignore_ascii_case("name") && value.trim_matches('"') == "file")
    };
    disposition.any(|(_, value)| named(value))
}

/// Where some bytes are first found, from an offset on.
fn find(file: &mut File, from: u64, wanted: &[u8]) -> Result<Option<u64>> {
    file.seek(SeekFrom::Start(from))?;
    let (mut window, mut begin) = (Vec::new(), from);
    loop {
        let read = Read::by_ref(file).take(CHUNK as u64).read_to_end(&mut window)?;
        let mut candidates = window.windows(wanted.len());
        if let Some(found) = candidates.position(|bytes| bytes[0] == wanted[0] && bytes == wanted) {
            return Ok(Some(begin + found as u64));
        }
        if read == 0 {
            return Ok(None);
        }
        let gone = window.len().saturating_sub(wanted.len() - 1);
        window.drain(..gone);
        begin += gone as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cut(body: &[u8]) -> Option<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(body).unwrap();
        let part = part(&mut file, "xYz").unwrap()?;
        let mut found = Vec::new();
        cut_out(&mut file, &part, tempfile::tempfile().unwrap())
            .unwrap()
            .read_to_end(&mut found)
            .unwrap();
        Some(found)
    }

    #[test]
    fn the_part_called_file_is_the_upload() {
        let form = |name: &str, content: &[u8]| {
            let head = format!(
                "--xYz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\nContent-Type: text/plain\r\n\r\n"
            );
            [head.as_bytes(), content, b"\r\n"].concat()
        };
        let end = b"--xYz--\r\n";
        for content in [
            &b""[..],
            b"\r\n",
            b"hello\r\n--xY",
            &vec![b'-'; 3 * CHUNK + 7],
            &b"\r\n--xYy".repeat(CHUNK / 3),
        ] {
            let body = [
                &form("other", b"not this"),
                &form("file", content),
                &form("more", b"nor this"),
                &end[..],
            ]
            .concat();
            assert_eq!(cut(&body).as_deref(), Some(content));
            let body = [b"preamble\r\n", &form("file", content)[..], end].concat();
            assert_eq!(cut(&body).as_deref(), Some(content));
        }
        let without_end = form("file", b"broken off");
        for bad in [
            &b""[..],
            b"hello",
            end,
            &form("other", b"x"),
            &without_end[..without_end.len() - 2],
            b"--xYz\r\nno headers",
        ] {
            assert_eq!(cut(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn a_form_says_where_its_parts_end() {
        assert_eq!(boundary("multipart/form-data; boundary=xYz"), Some("xYz"));
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; Boundary=\"x Yz\""),
            Some("x Yz")
        );
        for none in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "application/octet-stream; boundary=x",
            "",
        ] {
            assert_eq!(boundary(none), None, "{none}");
        }
    }
}
