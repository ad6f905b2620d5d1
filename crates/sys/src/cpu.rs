//! What the processor has, as far as programs can see it.
#![allow(unsafe_code)]

/// Bytes of the extended register set (XSAVE) with the features that the kernel has switched on; 0 where the processor
/// has none. Intel SDM vol. 1, 13.2: CPUID leaf 0xD, sub-leaf 0, EBX.
#[must_use]
pub fn xsave_bytes() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        const OSXSAVE: u32 = 1 << 27;
        // SAFETY: every processor that runs 64-bit code has the CPUID instruction.
        #[allow(unused_unsafe)]
        unsafe {
            if __cpuid(0).eax >= 0xd && __cpuid(1).ecx & OSXSAVE != 0 { __cpuid_count(0xd, 0).ebx } else { 0 }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_extended_area_holds_at_least_the_legacy_one() {
        let bytes = super::xsave_bytes();
        assert!(bytes == 0 || bytes >= 576, "{bytes}");
    }
}
