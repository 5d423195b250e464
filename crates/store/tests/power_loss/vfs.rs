//! A layer below SQLite (<https://www.sqlite.org/vfs.html>) that writes down what reaches the disk and what is synced.
//!
//! All files of this process go through it: it is registered as the default. Reads, locks and the shared index of the log
//! are the real ones.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi;

/// Something that happened to the files, or that a client was told.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        file: String,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: String,
        len: usize,
    },
    Sync {
        file: String,
    },
    /// Removed; `synced`: the folder was synced, too.
    Delete {
        file: String,
        synced: bool,
    },
    /// A commit was acknowledged: its number.
    Acknowledged(u64),
}

/// What happened to the files of one folder, in its order.
#[derive(Debug, Default)]
struct Record {
    folder: String,
    ops: Vec<Op>,
}

static RECORD: Mutex<Option<Record>> = Mutex::new(None);

fn record() -> MutexGuard<'static, Option<Record>> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to write down what happens in a folder.
pub fn start(folder: &str) {
    register();
    let (folder, ops) = (folder.to_owned(), Vec::new());
    *record() = Some(Record { folder, ops });
}

/// Ends it.
pub fn stop() -> Vec<Op> {
    record().take().unwrap_or_default().ops
}

/// Notes that a client has been told of a commit.
pub fn acknowledged(commit: u64) {
    if let Some(record) = record().as_mut() {
        record.ops.push(Op::Acknowledged(commit));
    }
}

/// Notes it, when the path is of the folder that is recorded; the operation gets the file's name.
fn note(path: &CStr, op: impl FnOnce(String) -> Op) {
    if let Some(record) = record().as_mut() {
        let path = path.to_string_lossy();
        if let Some(name) = path.strip_prefix(record.folder.as_str()) {
            record.ops.push(op(name.trim_start_matches('/').to_owned()));
        }
    }
}

/// What SQLite holds of an open file: ours, then the real one behind it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// SQLite keeps the name while the file is open. Null: a temporary file.
    name: *const c_char,
}

/// # Safety
/// `file` was opened by [`open`].
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocated szOsFile bytes: ours and the real ones.
    unsafe { file.cast::<u8>().add(size_of::<File>()).cast() }
}

/// # Safety
/// As [`real`].
unsafe fn name<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a CStr> {
    // SAFETY: set by `open` to null or a text that lives as long as the file.
    unsafe {
        let name = (*file.cast::<File>()).name;
        (!name.is_null()).then(|| CStr::from_ptr(name))
    }
}

/// Functions that hand on to the real file's.
macro_rules! handed_on {
    ($($name:ident: $method:ident($($arg:ident: $type:ty),*);)*) => {$(
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($arg: $type),*) -> c_int {
            // SAFETY: SQLite calls methods of files that `open` opened.
            unsafe {
                let real = real(file);
                match (*(*real).pMethods).$method {
                    Some(method) => method(real, $($arg),*),
                    None => ffi::SQLITE_IOERR,
                }
            }
        }
    )*};
}

handed_on! {
    close: xClose();
    read: xRead(to: *mut c_void, len: c_int, at: i64);
    write_real: xWrite(from: *const c_void, len: c_int, at: i64);
    truncate_real: xTruncate(len: i64);
    sync_real: xSync(flags: c_int);
    file_size: xFileSize(len: *mut i64);
    lock: xLock(level: c_int);
    unlock: xUnlock(level: c_int);
    check_reserved_lock: xCheckReservedLock(reserved: *mut c_int);
    file_control: xFileControl(op: c_int, arg: *mut c_void);
    sector_size: xSectorSize();
    device_characteristics: xDeviceCharacteristics();
    shm_map: xShmMap(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void);
    shm_lock: xShmLock(offset: c_int, n: c_int, flags: c_int);
    shm_unmap: xShmUnmap(delete: c_int);
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `handed_on`.
    unsafe {
        let real = real(file);
        if let Some(barrier) = (*(*real).pMethods).xShmBarrier {
            barrier(real);
        }
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: as in `handed_on`; SQLite gives `len` readable bytes.
    unsafe {
        let done = write_real(file, from, len, at);
        if let (ffi::SQLITE_OK, Some(name), Ok(len), Ok(at)) = (done, name(file), len.try_into(), at.try_into()) {
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), len).to_vec();
            note(name, |file| Op::Write { file, at, bytes });
        }
        done
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: as in `handed_on`.
    unsafe {
        let done = truncate_real(file, len);
        if let (ffi::SQLITE_OK, Some(name), Ok(len)) = (done, name(file), len.try_into()) {
            note(name, |file| Op::Truncate { file, len });
        }
        done
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as in `handed_on`.
    unsafe {
        let done = sync_real(file, flags);
        if let (ffi::SQLITE_OK, Some(name)) = (done, name(file)) {
            note(name, |file| Op::Sync { file });
        }
        done
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without mapping of the database itself: writes would go past us.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The real one, as an address: pointers cannot be shared between threads.
static REAL: OnceLock<usize> = OnceLock::new();

fn real_vfs() -> *mut ffi::sqlite3_vfs {
    REAL.get().copied().unwrap_or_default() as *mut _
}

unsafe extern "C" fn open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives room for a file of ours; the real VFS lives for ever.
    unsafe {
        (*file).pMethods = std::ptr::null();
        let Some(open) = (*real_vfs()).xOpen else {
            return ffi::SQLITE_CANTOPEN;
        };
        let real = real(file);
        let done = open(real_vfs(), name, real, flags, out);
        // SQLite closes whatever has methods, also when it was not opened.
        if !(*real).pMethods.is_null() {
            (*file).pMethods = &raw const METHODS;
            (*file.cast::<File>()).name = name;
        }
        done
    }
}

unsafe extern "C" fn delete(_vfs: *mut ffi::sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: as in `open`.
    unsafe {
        let Some(delete) = (*real_vfs()).xDelete else {
            return ffi::SQLITE_IOERR;
        };
        let done = delete(real_vfs(), name, sync_dir);
        if done == ffi::SQLITE_OK {
            note(CStr::from_ptr(name), |file| Op::Delete {
                file,
                synced: sync_dir != 0,
            });
        }
        done
    }
}

fn register() {
    REAL.get_or_init(|| {
        // SAFETY: registered once, before this process opens a database; what is registered is never freed.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let real = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!real.is_null(), "SQLite knows no VFS");
            let mut ours = *real;
            ours.szOsFile += c_int::try_from(size_of::<File>()).unwrap_or(c_int::MAX);
            ours.zName = c"recorded".as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1), ffi::SQLITE_OK);
            real as usize
        }
    });
}
