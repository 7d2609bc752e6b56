import type { Session } from '../libvirt/index.ts'
import { domainCapabilities } from './capabilities.ts'
import { type VmSpec, VmError } from './types.ts'

/**
 * Whether libvirt on this host can make the machine that is asked for: it knows UEFI images by the descriptors that their packages install
 * (/usr/share/qemu/firmware). Said before anything is made, in words that name the package.
 * @throws {VmError} vm-invalid
 */
export async function checkMachine(
  s: Pick<Session, 'query'>,
  want: Pick<VmSpec, 'machine' | 'firmware' | 'secure_boot' | 'vcpus'>,
  type: 'kvm' | 'qemu',
  signal?: AbortSignal,
): Promise<void> {
  const { machine } = want
  if (want.secure_boot && want.firmware !== 'uefi')
    throw invalid('Secure boot is asked for, but the firmware is a BIOS, which has none.', 'Ask for firmware: uefi.')
  if (want.secure_boot && machine !== 'q35')
    throw invalid(
      'Secure boot needs the machine q35; "pc" has no memory that only the firmware may write.',
      'Leave machine out.',
    )
  const found = await domainCapabilities(s, { type, machine }, signal)
  if ('refused' in found)
    throw invalid(
      `libvirt on this host has no machine "${machine}" for "${type}": ${found.refused}.`,
      'Install QEMU for this processor (Debian: qemu-system-x86), and restart libvirtd.',
    )
  const most = Math.min(found.vcpus, MOST_VCPUS)
  if (want.vcpus > most)
    throw invalid(
      `${want.vcpus} virtual processors are asked for; the machine "${machine}" takes ${most} here.`,
      `Ask for at most ${most}.`,
    )
  if (want.firmware === 'uefi' && !found.uefi)
    throw invalid(
      `UEFI is asked for, but libvirt on this host finds no UEFI firmware for the machine "${machine}".`,
      'Install it (Debian and Ubuntu: the package ovmf; Fedora and RHEL: edk2-ovmf), or ask for firmware: bios.',
    )
  if (want.secure_boot && !found.secure_boot)
    throw invalid(
      'Secure boot is asked for, but the UEFI firmware that libvirt finds on this host has none.',
      'Install one with it (Debian and Ubuntu: the package ovmf; Fedora and RHEL: edk2-ovmf), or ask for secure_boot: false.',
    )
}

/** Beyond this QEMU wants an IOMMU with extended interrupts, which the description does not have. */
const MOST_VCPUS = 255

function invalid(message: string, hint: string): VmError {
  return new VmError(message, { code: 'vm-invalid', phase: 'admit', hint })
}
