//! Where a program ended that has no words for it.
//!
//! On a router with little flash `waybill` is built without the texts of its panics (`openwrt/build`): what must not happen ends it by
//! an instruction that the kernel answers with a signal. The handler here writes the address of that instruction, which with the
//! file that `openwrt/build` leaves in `target/openwrt` is a line of the source, and lets the program end.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How far from where it was linked the program was loaded.
static MOVED_BY: AtomicUsize = AtomicUsize::new(0);

/// Where in what the kernel saves for a handler the interrupted instruction's address is (`ucontext_t` of musl and the kernel, in
/// bytes); `None` on processors nobody has looked it up for.
const ADDRESS_AT: Option<usize> = if cfg!(target_arch = "x86_64") {
    Some(168)
} else if cfg!(target_arch = "aarch64") {
    Some(440)
} else if cfg!(target_arch = "arm") {
    Some(92)
} else if cfg!(target_arch = "mips") {
    // The kernel keeps 64 bits of it, of which the second half is the first on this one.
    Some(if cfg!(target_endian = "big") { 36 } else { 32 })
} else {
    None
};

/// What is written; the address comes into the hole.
const WORDS: [&[u8]; 2] = [
    concat!("waybill ", env!("CARGO_PKG_VERSION"), " ended at 0x").as_bytes(),
    b", which must not happen: please report this line, and for which processor the package is\n",
];

const DIGITS: usize = usize::BITS as usize / 4;

#[expect(unsafe_code, reason = "the linker makes it, whatever else is in the program")]
unsafe extern "C" {
    /// The beginning of the program's file in memory, which the linker names.
    #[link_name = "__ehdr_start"]
    static FILE_HEADER: [usize; 8];
}

/// Has the address written before the program ends by an instruction that no processor takes. Once, at the start.
pub fn watch() {
    // The entry's address is behind 16 bytes of marks and 8 of kind, machine and version, whatever the size of an address.
    const ENTRY: usize = 24 / size_of::<usize>();
    #[expect(
        unsafe_code,
        reason = "the header is mapped in every program the kernel has started; the vector is the kernel's"
    )]
    let (linked, loaded) = unsafe { (FILE_HEADER[ENTRY], libc::getauxval(libc::AT_ENTRY) as usize) };
    MOVED_BY.store(loaded.wrapping_sub(linked), Relaxed);
    for signal in [libc::SIGILL, libc::SIGTRAP] {
        #[expect(unsafe_code, reason = "the standard library has no signals; the handler calls nothing but write")]
        // Without the handler the program ends all the same, so nothing is done about a failure.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = write_address as *const () as usize;
            // The second time it ends by the signal, as it would have without the handler.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn write_address(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(at) = ADDRESS_AT else { return };
    #[expect(unsafe_code, reason = "the kernel has put the registers there")]
    let address = unsafe { context.cast::<u8>().add(at).cast::<usize>().read() };
    let (line, len) = line(address.wrapping_sub(MOVED_BY.load(Relaxed)));
    #[expect(unsafe_code, reason = "of all that writes only this may be called from a handler")]
    unsafe {
        libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len);
    }
}

/// The line, and how long it is: without memory that must be asked for.
fn line(address: usize) -> ([u8; 160], usize) {
    let (mut line, mut len) = ([0; 160], 0);
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            if let Some(place) = line.get_mut(len) {
                *place = *byte;
                len += 1;
            }
        }
    };
    put(WORDS[0]);
    for digit in (0..DIGITS).rev() {
        put(&[b"0123456789abcdef"[address >> (4 * digit) & 0xf]]);
    }
    put(WORDS[1]);
    (line, len)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::{DIGITS, MOVED_BY, Relaxed, line, watch};

    /// Says to a test that it is the one to end.
    const END: &str = "WAYBILL_TEST_ENDS";

    #[inline(never)]
    fn must_not_happen() {
        #[expect(unsafe_code, reason = "that is what is tested")]
        // What the compiler puts where a panic has no words.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::asm!("ud2");
        }
    }

    #[test]
    fn a_line_holds_the_address_and_ends() {
        let (line, len) = line(0x00c0_ffee);
        let text = String::from_utf8(line[..len].to_vec()).unwrap();
        assert!(text.contains(&format!("0x{:0DIGITS$x}, ", 0x00c0_ffee)) && text.ends_with("is\n"), "{text}");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn who_ends_by_an_instruction_says_by_which() {
        if std::env::var_os(END).is_some() {
            watch();
            // Where it is in the file: what whoever has the names looks up.
            eprintln!("at {}", (must_not_happen as *const () as usize).wrapping_sub(MOVED_BY.load(Relaxed)));
            must_not_happen();
        }
        let this = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fault::tests::who_ends_by_an_instruction_says_by_which", "--nocapture"])
            .env(END, "1")
            .output()
            .unwrap();
        assert_eq!(this.status.signal(), Some(libc::SIGILL));
        let said = String::from_utf8_lossy(&this.stderr).into_owned();
        let number = |before: &str, radix, ends: fn(char) -> bool| {
            let (_, rest) = said.split_once(before).unwrap_or_else(|| panic!("{said}"));
            usize::from_str_radix(rest.split(ends).next().unwrap(), radix).unwrap_or_else(|_| panic!("{said}"))
        };
        let function = number("at ", 10, |c| !c.is_ascii_digit());
        let ended = number("ended at 0x", 16, |c| !c.is_ascii_hexdigit());
        assert!((function..function + 64).contains(&ended), "{said}");
    }
}
