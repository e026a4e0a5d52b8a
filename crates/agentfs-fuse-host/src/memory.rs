//! How the C library deals with memory: by itself it keeps a heap for each few threads, and in each what was dropped in its middle. A daemon
//! of many threads that makes and drops whole trees for weeks holds several times of what it needs then.
#![allow(unsafe_code, reason = "no crate offers these two calls")]

/// Heaps for all threads together.
#[cfg(target_env = "gnu")]
const HEAPS: std::ffi::c_int = 2;

/// To be said before there are threads.
pub(crate) fn keep_few_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes two numbers, and no thread allocates meanwhile.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives back to the kernel what is not used. Takes some milliseconds: for now and then.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
