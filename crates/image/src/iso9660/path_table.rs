//! Path tables (ECMA-119 §9.4): every directory, breadth first.

/// One directory. The order of the rows is the caller's: by level, by the number of the parent, by
/// identifier (ECMA-119 §6.9.1).
pub(crate) struct Row<'a> {
    /// Empty for the root.
    pub(crate) identifier: &'a [u8],
    pub(crate) lba: u32,
    /// Number of the parent, from 1; the root is its own parent.
    pub(crate) parent: u16,
}

/// Most directories that a path table can number.
pub(crate) const MAX_ROWS: usize = u16::MAX as usize;

/// Length in bytes of the row of an identifier.
pub(crate) fn row_len(identifier: usize) -> usize {
    8 + identifier.max(1).next_multiple_of(2)
}

/// The table with little-endian numbers (type L) and the one with big-endian numbers (type M).
pub(crate) fn emit<'a>(rows: impl Iterator<Item = Row<'a>>) -> (Vec<u8>, Vec<u8>) {
    let (mut l, mut m) = (Vec::new(), Vec::new());
    for row in rows {
        let identifier: &[u8] = if row.identifier.is_empty() {
            &[0]
        } else {
            row.identifier
        };
        // At most 33: see `name`.
        let head = [identifier.len() as u8, 0];
        for table in [&mut l, &mut m] {
            table.extend_from_slice(&head);
        }
        l.extend_from_slice(&row.lba.to_le_bytes());
        m.extend_from_slice(&row.lba.to_be_bytes());
        l.extend_from_slice(&row.parent.to_le_bytes());
        m.extend_from_slice(&row.parent.to_be_bytes());
        for table in [&mut l, &mut m] {
            table.extend_from_slice(identifier);
            if identifier.len() % 2 == 1 {
                table.push(0);
            }
        }
    }
    (l, m)
}
