//! What a process has taken of the machine: `/proc`, as `proc(5)` describes it.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::throwaway::process::failed_at;
use crate::error::{Error, Result};

/// Linux counts processor time in hundredths of a second, whatever its own clock is (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);
/// Places of `utime` and `stime` behind the program's name, which may hold spaces.
const UTIME: usize = 11;

/// Processor time of a process so far, in user mode and in the kernel.
pub fn cpu(process: u32) -> Result<Duration> {
    let path = PathBuf::from(format!("/proc/{process}/stat"));
    let text = std::fs::read_to_string(&path).map_err(failed_at(&path))?;
    ticks(&text).map(|ticks| TICK * ticks).ok_or_else(|| unreadable(&path))
}

/// Processor time of several processes so far.
pub fn cpu_of_all(processes: impl IntoIterator<Item = u32>) -> Result<Duration> {
    processes.into_iter().map(cpu).sum()
}

/// Most memory that a process ever had resident, in bytes.
pub fn peak_memory(process: u32) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{process}/status"));
    let text = std::fs::read_to_string(&path).map_err(failed_at(&path))?;
    high_water(&text).ok_or_else(|| unreadable(&path))
}

fn ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').skip(UTIME).take(2).map(|ticks| ticks.parse::<u32>().ok()).sum()
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn unreadable(path: &std::path::Path) -> Error {
    Error::definite(format!("{} is not as Linux writes it", path.display()), "measure on Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_a_name_with_spaces_and_brackets() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some(175));
        assert_eq!(ticks("7 (x) S 1 7"), Some(0), "no field, no time");
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn the_peak_of_memory_is_read_in_bytes() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(high_water("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_has_used_both() {
        let me = std::process::id();
        assert!(peak_memory(me).unwrap() > 1 << 20);
        assert!(cpu(me).unwrap() < Duration::from_secs(3600));
        assert!(cpu(u32::MAX).is_err());
    }
}
