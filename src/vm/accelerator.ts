import { readFile } from 'node:fs/promises'
import type { Accelerator } from '../domain/index.ts'
import type { Session } from '../libvirt/index.ts'
import { type DomainCapabilities, domainCapabilities } from './capabilities.ts'
import { VmError } from './types.ts'

export interface ChosenAccelerator extends Accelerator {
  /** for people, the end of a sentence that begins with "because" */
  reason: string
}

/**
 * KVM where it really works, else emulation. Inside some virtual machines /dev/kvm opens, libvirt offers KVM, a guest starts and is said to
 * run, and never executes an instruction that shows: there the processor has no virtualization of its own to offer, which its flags tell. Existing
 * VMs are never moved from one to the other: their guests see other processors.
 * @throws {VmError} vm-invalid when `wanted` cannot be had
 */
export async function chooseAccelerator(
  s: Pick<Session, 'query'>,
  wanted: 'auto' | 'kvm' | 'qemu',
  o: {
    machine?: 'q35' | 'pc'
    signal?: AbortSignal
    /** what /proc/cpuinfo says */
    cpuinfo?: () => Promise<string>
  } = {},
): Promise<ChosenAccelerator> {
  const machine = o.machine ?? 'q35'
  if (wanted !== 'qemu') {
    const kvm = await domainCapabilities(s, { type: 'kvm', machine }, o.signal)
    const why = 'refused' in kvm ? `libvirt offers none (${kvm.refused})` : await withoutHardware(kvm, s, o.cpuinfo)
    if (why === undefined && !('refused' in kvm))
      return {
        type: 'kvm',
        ...withCpu(kvm, 'host-passthrough', 'host-model'),
        reason: wanted === 'kvm' ? 'it is asked for, and this host has it' : 'this host has it',
      }
    if (wanted === 'kvm')
      throw new VmError(`The VM is to run on KVM, which does not work on this host: ${why}.`, {
        code: 'vm-invalid',
        phase: 'define',
        hint: 'Switch virtualization on in the firmware of the host (or nested virtualization in its hypervisor), load kvm_intel or kvm_amd, let libvirt use /dev/kvm; or ask for accelerator: auto, or qemu, which emulates the processor and is many times slower.',
      })
    return { ...(await emulation(s, machine, o.signal)), reason: `KVM does not work on this host: ${why}` }
  }
  return { ...(await emulation(s, machine, o.signal)), reason: 'emulation is asked for' }
}

async function emulation(
  s: Pick<Session, 'query'>,
  machine: 'q35' | 'pc',
  signal: AbortSignal | undefined,
): Promise<Accelerator> {
  const tcg = await domainCapabilities(s, { type: 'qemu', machine }, signal)
  if ('refused' in tcg)
    throw new VmError(`libvirt on this host has no emulator for a machine "${machine}": ${tcg.refused}.`, {
      code: 'vm-invalid',
      phase: 'define',
      hint: 'Install QEMU for this processor (Debian: qemu-system-x86), and restart libvirtd.',
    })
  return { type: 'qemu', ...withCpu(tcg, 'maximum', 'host-model') }
}

/** The first of them that is offered; host-passthrough, say, is an error for emulated ones. */
function withCpu(c: DomainCapabilities, ...modes: NonNullable<Accelerator['cpu']>[]): Pick<Accelerator, 'cpu'> {
  const cpu = modes.find((m) => c.cpu_modes.has(m))
  return cpu === undefined ? {} : { cpu }
}

/** Why a KVM that is offered will not run a guest; undefined when nothing speaks against it. */
async function withoutHardware(
  kvm: DomainCapabilities,
  s: Pick<Session, 'query'>,
  cpuinfo: (() => Promise<string>) | undefined,
): Promise<string | undefined> {
  // other architectures do not say it there, and a far host's processor is not ours to see
  if (!/^(x86_64|i686)$/.test(kvm.arch) || /^\w+\+ssh:/.test(s.query.uri)) return undefined
  const text = await (cpuinfo ?? (() => readFile('/proc/cpuinfo', 'utf8')))()
  const flags = /^flags\s*:(.*)$/m.exec(text)?.[1]?.split(/\s+/) ?? []
  if (flags.includes('vmx') || flags.includes('svm')) return undefined
  return 'libvirt offers it, but the processor has neither vmx nor svm (/proc/cpuinfo), and a guest would be started and never run'
}
