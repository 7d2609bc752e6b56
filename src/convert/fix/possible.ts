import { chooseAccelerator } from './appliance.ts'
import { applianceKernel, needTool, NotPossible, probeV2v } from './programs.ts'
import type { GuestToolSettings } from './types.ts'

/** Whether a guest could be fixed here, without starting an appliance; for `vmspool doctor`. */
export async function fixingPossible(
  s: GuestToolSettings,
): Promise<{ possible: true; detail: string } | { possible: false; detail: string; hint: string }> {
  try {
    const v2v = await probeV2v(s)
    await needTool('virt-customize')
    await needTool('virt-inspector')
    const kernel = await applianceKernel(s)
    const windows = v2v.features.has('convert:windows') ? '' : ', no Windows guests'
    const from = kernel.LIBGUESTFS_PATH ?? kernel.SUPERMIN_KERNEL ?? 'the kernel of this host'
    const slow = (await chooseAccelerator(s.accelerator)) === 'kvm' ? 'KVM' : 'emulation, ten times slower than KVM'
    return { possible: true, detail: `${v2v.version}${windows}; its appliance starts from ${from} under ${slow}` }
  } catch (e) {
    if (e instanceof NotPossible) return { possible: false, detail: e.message, hint: e.hint }
    throw e
  }
}
