import { ImageError } from '../images/index.ts'
import { ConnectionError, DeadlineError, isLibvirtError, LibvirtError, errorCodeName } from '../libvirt/index.ts'
import { SpawnError } from '../process/index.ts'
import { VmError, type VmErrorCode, type VmPhase } from './types.ts'
import { errno } from '../process/errno.ts'

/** What failed in an action, as a VmError that knows its phase. What nobody foresaw is passed on as it is. */
export function asVmError(e: unknown, o: { name: string; phase: VmPhase }): unknown {
  if (e instanceof VmError) {
    e.phase ??= o.phase
    return e
  }
  if (e instanceof LibvirtError) return refusal(e, o)
  if (e instanceof ConnectionError || e instanceof DeadlineError) {
    return new VmError(`libvirt could not be asked about the VM "${o.name}": ${e.message}`, {
      code: 'hypervisor-down',
      transient: true,
      hint: 'Check that libvirtd runs; the job is tried again.',
      phase: o.phase,
      cause: e,
    })
  }
  if (e instanceof ImageError) {
    return new VmError(e.message, {
      code: 'image-invalid',
      transient: e.transient,
      ...(e.hint === undefined ? {} : { hint: e.hint }),
      phase: o.phase,
      cause: e,
    })
  }
  if (e instanceof SpawnError) {
    return new VmError(e.message, {
      code: 'storage',
      transient: e.code === 'EAGAIN' || e.code === 'ENOMEM',
      hint: 'VMs need qemu-img (qemu-utils) and xorriso; "vmspool doctor" says what is missing.',
      phase: o.phase,
      cause: e,
    })
  }
  const name = errno(e)
  if (name === 'ENOSPC' || name === 'EDQUOT') {
    return new VmError(`The filesystem of the VM "${o.name}" is full: ${(e as Error).message}.`, {
      code: 'storage',
      transient: true,
      hint: 'Free space there; the job is tried again.',
      phase: o.phase,
      cause: e,
    })
  }
  if (/^E[A-Z0-9]+$/.test(name)) {
    return new VmError(`A file of the VM "${o.name}" could not be handled: ${(e as Error).message}.`, {
      code: 'storage',
      transient: true,
      hint: 'Check the filesystem of vm.dir.',
      phase: o.phase,
      cause: e,
    })
  }
  return e
}

/** Answers that may be others the next time. */
const PASSING = ['operation_timeout', 'operation_aborted', 'resource_busy', 'rpc'] as const

function refusal(e: LibvirtError, o: { name: string; phase: VmPhase }): VmError {
  const told = `libvirt refused ${DOING[o.phase] ?? 'a step of'} the VM "${o.name}": ${sentence(e.message)}`
  const number = `${e.code} (${errorCodeName(e.code)})`
  const more = { phase: o.phase, cause: e, transient: isLibvirtError(e, ...PASSING) }
  if (isLibvirtError(e, 'no_network')) {
    return new VmError(told, {
      ...more,
      code: 'network-not-found',
      hint: 'Name a network that "virsh net-list" shows as active, or define this one.',
    })
  }
  const code: VmErrorCode = o.phase === 'start' ? 'guest-start' : o.phase === 'stop' ? 'guest-stop' : 'hypervisor'
  return new VmError(told, {
    ...more,
    code,
    hint: `${advice(told)}libvirt's code is ${number}; its own log and that of the guest (/var/log/libvirt/qemu/${o.name}.log) may say more.`,
  })
}

/** Where libvirt's words are known to be hard to read. */
function advice(message: string): string {
  if (/Permission denied/.test(message))
    return "The user that guests run as (libvirt-qemu, qemu) must be able to pass through every folder above the VM's disks, and libvirt must be allowed to give him the disks (dynamic_ownership in qemu.conf, AppArmor, SELinux). "
  // libvirt makes folders of the first 20 characters of the name, or bytes in the locale C, and then one character may be cut in two
  if (/virJSONValue to yajl/.test(message))
    return 'The libvirtd here runs in the locale C and cannot handle this name: use plain letters in its first 20 characters, or give libvirtd a UTF-8 locale. '
  return ''
}

const DOING: Partial<Record<VmPhase, string>> = {
  define: 'to define',
  start: 'to start',
  stop: 'to stop',
  undefine: 'to remove',
}

const sentence = (text: string): string => (/[.!?]$/.test(text) ? text : `${text}.`)
