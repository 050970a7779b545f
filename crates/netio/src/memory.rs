//! Memory of this process that can be given back. Knows neither allocator nor load.

use std::fs;
use std::io;

/// Unmaps the pages of this program's own code; what is still needed is mapped again from the page
/// cache at its next use, 16 pages a fault. Gives the bytes of address space released.
///
/// The code that only start-up, TLS to the control plane or an admin request needs is most of
/// what an idle proxy has in memory.
///
/// # Errors
/// /proc cannot be read, or the kernel refuses.
pub fn release_code() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for (start, end) in maps.lines().filter_map(|line| code_range(line, &program)) {
        let length = end - start;
        // SAFETY: the range is one whole mapping of this process, private, executable and not
        // writable. A position-independent program has no relocations in its code, so no page of
        // it was ever written and each comes back from the file as it was (madvise(2),
        // MADV_DONTNEED). Other threads that run in it meanwhile take a page fault.
        let outcome =
            unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
        released += length;
    }
    Ok(released)
}

/// Gives free pages inside the heap back to the kernel, those of other threads' arenas too
/// (malloc_trim(3), glibc 2.8).
pub fn trim_heap() {
    // SAFETY: malloc_trim takes the arenas' own locks and touches free chunks only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the memory of the buffers that a ring receives into, half a megabyte a worker, unless
/// one of them holds what nobody has read, or none was used since the last call; whether it did.
/// The next ones are made anew page by page. Nothing on a thread without an executor.
pub fn release_buffers() -> bool {
    crate::executor::core::try_here().is_some_and(|core| core.driver().release_buffers())
}

/// The range of a line of /proc/self/maps when it is code of `program` (proc_pid_maps(5)).
fn code_range(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let code = words.next()? == "r-xp";
    let own = line.ends_with(program);
    let address = |text| usize::from_str_radix(text, 16).ok();
    (code && own).then_some((address(start)?, address(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_released() {
        let line = |flags: &str, file: &str| format!("1000-3000 {flags} 00000000 fe:00 7   {file}");
        assert_eq!(
            code_range(&line("r-xp", "/bin/a"), "/bin/a"),
            Some((0x1000, 0x3000))
        );
        assert_eq!(code_range(&line("r--p", "/bin/a"), "/bin/a"), None);
        assert_eq!(code_range(&line("rw-p", "/bin/a"), "/bin/a"), None);
        assert_eq!(code_range(&line("r-xp", "/lib/libc.so.6"), "/bin/a"), None);
    }

    #[test]
    fn the_program_goes_on_after_its_code_was_released() {
        assert!(release_code().expect("the kernel allows it") > 0);
        // Code that was certainly not in use a moment ago.
        let sorted = std::collections::BTreeMap::from([(2, 'b'), (1, 'a')]);
        assert_eq!(format!("{sorted:?}"), "{1: 'a', 2: 'b'}");
    }
}
