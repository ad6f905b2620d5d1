//! What the kernel keeps for an address space beside its mappings.

use super::{Error, process::SpaceAnswers};
use crate::records::Space;
use crate::vdso;
use ferry_sys::proc::{self, maps::Mapping, stat::Stat};

/// Fills in everything but number and mappings, from `/proc` and what the process itself has answered.
pub(crate) fn fill(
    space: &mut Space,
    pid: i32,
    stat: &Stat,
    maps: &[Mapping],
    answers: &SpaceAnswers,
) -> Result<(), Error> {
    let ((start_code, end_code, start_stack), (start_data, end_data, start_brk)) = (stat.code, stat.data);
    let (arg_start, arg_end, env_start, env_end) = stat.arguments;
    space.layout = [
        start_code,
        end_code,
        start_data,
        end_data,
        start_brk,
        answers.brk,
        start_stack,
        arg_start,
        arg_end,
        env_start,
        env_end,
    ];
    space.auxv = proc::read(pid, "auxv").map_err(Error::read("the auxiliary vector", pid))?;
    space.exe = proc::link(pid, "exe").map_err(Error::read("the executable's path", pid))?;
    space.dumpable = answers.dumpable;
    space.thp_disabled = answers.thp_disabled;
    space.mdwe = answers.mdwe;
    space.merge_any = answers.merge_any;
    let filter = proc::read(pid, "coredump_filter").unwrap_or_default();
    space.coredump_filter = u32::from_str_radix(String::from_utf8_lossy(&filter).trim(), 16).unwrap_or(0x33);
    space.vdso_hash = vdso::hash(pid, maps).map_err(Error::read("the vDSO", pid))?;
    Ok(())
}
