//! What the instrumented crate tells: how often each edge was passed, and what was compared with what.

/// Buckets of how often an edge was passed: one bit each, as AFL has them.
fn bucket(times: u8) -> u8 {
    match times {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}

/// What all runs so far have passed.
#[derive(Debug, Default)]
pub struct Seen {
    buckets: Vec<u8>,
    edges: usize,
}

impl Seen {
    /// Takes the counters of a run in and clears them. Whether it passed an edge as no run before it.
    pub fn take(&mut self) -> bool {
        let mut is_new = false;
        hooks::with_counters(|at, counters| {
            if self.buckets.len() < at + counters.len() {
                self.buckets.resize(at + counters.len(), 0);
            }
            for (counter, seen) in counters.iter_mut().zip(&mut self.buckets[at..]) {
                if *counter != 0 {
                    let bucket = bucket(std::mem::take(counter));
                    if *seen & bucket == 0 {
                        self.edges += usize::from(*seen == 0);
                        *seen |= bucket;
                        is_new = true;
                    }
                }
            }
        });
        is_new
    }

    /// Edges that were passed at all.
    pub fn edges(&self) -> usize {
        self.edges
    }
}

pub use hooks::{IS_BLIND, constants};

#[cfg(not(fuzzing))]
mod hooks {
    pub const IS_BLIND: bool = true;

    pub fn with_counters(_each: impl FnMut(usize, &mut [u8])) {}

    pub fn constants() -> Vec<u64> {
        Vec::new()
    }
}

/// Called by the code that LLVM's sanitizer coverage puts in:
/// <https://clang.llvm.org/docs/SanitizerCoverage.html>. The only place with `unsafe`: the contract is LLVM's.
#[cfg(fuzzing)]
#[allow(unsafe_code, reason = "LLVM calls in, and hands out raw counters")]
mod hooks {
    use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

    pub const IS_BLIND: bool = false;

    /// Modules of the program with counters of their own: codegen units.
    const MODULES: usize = 4_096;
    static STARTS: [AtomicPtr<u8>; MODULES] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MODULES];
    static LENGTHS: [AtomicUsize; MODULES] = [const { AtomicUsize::new(0) }; MODULES];
    static COUNT: AtomicUsize = AtomicUsize::new(0);

    /// The last constants that did not equal what they were compared with.
    const CONSTANTS: usize = 256;
    static COMPARED: [AtomicU64; CONSTANTS] = [const { AtomicU64::new(0) }; CONSTANTS];
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    pub fn with_counters(mut each: impl FnMut(usize, &mut [u8])) {
        let mut at = 0;
        for module in 0..COUNT.load(Ordering::Acquire).min(MODULES) {
            let (start, length) =
                (STARTS[module].load(Ordering::Relaxed), LENGTHS[module].load(Ordering::Relaxed));
            // SAFETY: LLVM gave this range for the life of the program, and one thread fuzzes.
            each(at, unsafe { std::slice::from_raw_parts_mut(start, length) });
            at += length;
        }
    }

    pub fn constants() -> Vec<u64> {
        COMPARED
            .iter()
            .map(|constant| constant.load(Ordering::Relaxed))
            .filter(|constant| *constant > 0)
            .collect()
    }

    fn note(constant: u64, other: u64) {
        if constant != other && constant != 0 {
            COMPARED[NEXT.fetch_add(1, Ordering::Relaxed) % CONSTANTS].store(constant, Ordering::Relaxed);
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
        let known = COUNT.load(Ordering::Relaxed).min(MODULES);
        if start == stop
            || known == MODULES
            || STARTS[..known].iter().any(|s| s.load(Ordering::Relaxed) == start)
        {
            return;
        }
        STARTS[known].store(start, Ordering::Relaxed);
        LENGTHS[known].store(stop as usize - start as usize, Ordering::Relaxed);
        COUNT.store(known + 1, Ordering::Release);
    }

    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_const_cmp1(constant: u8, other: u8) {
        note(constant.into(), other.into());
    }
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_const_cmp2(constant: u16, other: u16) {
        note(constant.into(), other.into());
    }
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_const_cmp4(constant: u32, other: u32) {
        note(constant.into(), other.into());
    }
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_const_cmp8(constant: u64, other: u64) {
        note(constant, other);
    }
    // Neither side is a constant: nothing to learn from.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_cmp1(_: u8, _: u8) {}
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_cmp2(_: u16, _: u16) {}
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_cmp4(_: u32, _: u32) {}
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_cmp8(_: u64, _: u64) {}
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_switch(value: u64, cases: *const u64) {
        // SAFETY: LLVM gives the number of cases, their width in bits, and the cases.
        let cases = unsafe { std::slice::from_raw_parts(cases.add(2), (*cases) as usize) };
        // One of them is enough, another each time.
        if let Some(case) = cases.get(NEXT.load(Ordering::Relaxed) % cases.len().max(1)) {
            note(*case, value);
        }
    }
}
