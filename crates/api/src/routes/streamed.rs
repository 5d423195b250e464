//! Long lists: made while they are sent, so that neither their length nor a slow reader costs memory or a thread.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::StreamExt as _;
use isobar_model::{ApiError, Noun};
use isobar_objects::{Objects, Principal, Row};

use super::objects::View;

/// Lists of so many objects are made at once and have a length.
pub(super) const STREAMED: usize = 200;
/// Objects that are made at a time.
const PART: usize = 64;
/// Bytes that are put together at a time, of objects that are text already.
const CHUNK: usize = 64 << 10;

/// A list on its way.
pub(super) struct Streamed {
    objects: Objects,
    who: Principal,
    view: Arc<View>,
    noun: &'static Noun,
    rows: std::vec::IntoIter<Row>,
    /// What comes before the next object.
    mark: u8,
    ended: bool,
}

impl Streamed {
    pub(super) fn new(objects: Objects, who: Principal, view: View, noun: &'static Noun, rows: Vec<Row>) -> Self {
        Self {
            objects,
            who,
            view: Arc::new(view),
            noun,
            rows: rows.into_iter(),
            mark: b'[',
            ended: false,
        }
    }

    pub(super) fn body(self) -> Body {
        let parts = futures_util::stream::unfold(self, |mut list| async {
            if list.ended {
                return None;
            }
            let part = list.part().await;
            if let Err(error) = &part {
                // The head is gone: all that is left is to break off.
                tracing::error!(kind = list.noun.name, %error, "a list broke off");
                list.ended = true;
            }
            Some((part, list))
        });
        // The compressor asks once more after the end.
        Body::from_stream(parts.fuse())
    }

    /// The next objects, which are text in memory.
    fn chunk(&mut self) -> Result<Bytes, ApiError> {
        let mut text = Vec::with_capacity(CHUNK);
        while text.len() < CHUNK
            && let Some(row) = self.rows.next()
        {
            text.push(std::mem::replace(&mut self.mark, b','));
            text.extend_from_slice(&row.text()?);
        }
        if self.rows.as_slice().is_empty() {
            self.ended = true;
            text.push(b']');
        }
        Ok(text.into())
    }

    /// The next objects as text; made where blocking holds up no client.
    async fn part(&mut self) -> Result<Bytes, ApiError> {
        if self.view.is_plain() {
            return self.chunk();
        }
        let rows: Vec<Row> = self.rows.by_ref().take(PART).collect();
        let (who, view, noun, mut mark) = (self.who.clone(), Arc::clone(&self.view), self.noun, self.mark);
        self.mark = b',';
        self.ended = self.rows.as_slice().is_empty();
        let last = self.ended;
        self.objects
            .run(move |objects| {
                let mut text = Vec::new();
                for row in rows {
                    text.push(mark);
                    mark = b',';
                    let shown = view.show(objects, &who, noun, &*row.object()?)?;
                    serde_json::to_writer(&mut text, &shown)
                        .map_err(|e| ApiError::new(500, "", noun.name, "", e.to_string()))?;
                }
                if last {
                    text.push(b']');
                }
                Ok(text.into())
            })
            .await
    }
}
