/** VMs: is libvirt there for this user, what can it do, and is everything in place that a VM needs? */
import { link, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { access, constants } from 'node:fs/promises'
import { join } from 'node:path'
import type { Place } from '../../client/place.ts'
import { connect, type Connection, ConnectionError, isLibvirtError } from '../../libvirt/index.ts'
import { existing } from './mounts.ts'
import { output } from './tools.ts'
import { codeOf, type Finding, fail, note, ok, warn } from './types.ts'

const OPEN_MS = 5000
/** The first question makes a daemon try every QEMU that it finds. */
const CALL_MS = 30_000
const MOST_DRIFT = 10

/** @param place undefined when the configuration cannot be read: the standard libvirt is looked at then */
export async function checkVms(place: Place | undefined): Promise<Finding[]> {
  const uri = place?.config.libvirt.uri ?? 'qemu:///system'
  const wanted = place !== undefined && (place.config.libvirt.enabled || (await vmsThere(place)) > 0)
  const bad = wanted ? warn : note
  const findings: Finding[] = []
  const c = await open(uri, wanted, findings)
  try {
    if (c !== undefined && place !== undefined) {
      findings.push(await accelerator(c, place), await network(c, place, bad))
      findings.push(...(await folders(c, place, bad)))
    }
  } catch (error) {
    findings.push(warn('libvirt', `libvirt at ${uri} let us in and then failed: ${(error as Error).message}`))
  } finally {
    await c?.close()
  }
  if (place !== undefined) findings.push(await seeds(bad), ...(await registry(place)))
  return findings
}

async function vmsThere(place: Place): Promise<number> {
  const { readRegistry } = await import('../../vm/registry.ts')
  const { vmDirOf } = await import('../../client/vms.ts')
  return (await readRegistry(vmDirOf(place)).catch(() => [])).length
}

async function open(uri: string, wanted: boolean, findings: Finding[]): Promise<Connection | undefined> {
  const bad = wanted ? fail : warn
  try {
    const c = await connect(uri, { open_ms: OPEN_MS, quick_ms: CALL_MS })
    const [version, type, hypervisor] = await Promise.all([c.host.version(), c.host.type(), c.host.hypervisorVersion()])
    findings.push(ok('libvirt', `${uri} lets this user in: libvirt ${version}, ${type} ${hypervisor}`))
    return c
  } catch (error) {
    findings.push(closed(error, uri, wanted, bad))
    return undefined
  }
}

function closed(error: unknown, uri: string, wanted: boolean, bad: typeof warn): Finding {
  const said = (error as Error).message
  if (!(error instanceof ConnectionError))
    return bad(
      'libvirt',
      `libvirt does not open ${uri}: ${said}`,
      'Correct libvirt.uri, or install the driver it names.',
    )
  const code = codeOf(error.cause)
  if (error.reason === 'unreachable' && code === 'ENOENT')
    return (wanted ? fail : note)(
      'libvirt',
      'libvirt is not running here. Conversions do not need it; VMs do.',
      'To have VMs here: apt-get install libvirt-daemon-system, then systemctl enable --now libvirtd.',
    )
  if (error.reason === 'authentication' || code === 'EACCES' || code === 'EPERM')
    return bad('libvirt', said, 'Add the user to the group libvirt: usermod -aG libvirt USER, then log in again.')
  return bad(
    'libvirt',
    said,
    'Look at its log (journalctl -u libvirtd), and start it again: systemctl restart libvirtd (or virtqemud); guests run on.',
  )
}

/** Whether guests will run on KVM, as an agent decides it: /dev/kvm and libvirt's word are not enough. */
async function accelerator(c: Connection, place: Place): Promise<Finding> {
  const { chooseAccelerator } = await import('../../vm/accelerator.ts')
  const asked = place.config.vm.accelerator
  try {
    const chosen = await chooseAccelerator({ query: c }, asked)
    if (chosen.type === 'kvm') return ok('vm accelerator', `VMs run on KVM: ${chosen.reason}.`)
    return note(
      'vm accelerator',
      `VMs are emulated, many times slower than on KVM: ${chosen.reason}.`,
      asked === 'qemu'
        ? undefined
        : 'Switch virtualisation on in the firmware, or nested virtualisation in the hypervisor of this host.',
    )
  } catch (error) {
    const { hint } = error as { hint?: string }
    return fail('vm accelerator', (error as Error).message, hint)
  }
}

/** The network that a VM gets when its manifest names none. */
async function network(c: Connection, place: Place, bad: typeof warn): Promise<Finding> {
  const name = place.config.vm.network
  const check = 'vm network'
  if (name.startsWith('bridge:')) {
    const bridge = name.slice('bridge:'.length)
    try {
      await access(`/sys/class/net/${bridge}/bridge`)
      return ok(check, `the bridge ${bridge} is there`)
    } catch {
      return bad(
        check,
        `This host has no bridge "${bridge}" (vm.network).`,
        'Make it, or set vm.network to a network of libvirt.',
      )
    }
  }
  try {
    const found = await c.networks.byName(name)
    if (found === undefined)
      return bad(
        check,
        `libvirt has no network "${name}" (vm.network): VMs whose manifests name no other cannot be made.`,
        'Define it: virsh net-define /usr/share/libvirt/networks/default.xml, or set vm.network to one of `virsh net-list --all`.',
      )
    if (!(await c.networks.isActive(found)))
      return bad(
        check,
        `The network "${name}" (vm.network) is not active.`,
        `virsh net-start ${name} && virsh net-autostart ${name}`,
      )
    return ok(
      check,
      `"${name}" is active${(await c.networks.autostart(found)) ? '' : '; it is not started with the host'}`,
    )
  } catch (error) {
    if (!isLibvirtError(error)) throw error
    return note(check, `libvirt cannot be asked for its networks: ${error.message}.`)
  }
}

/** Where VMs and images lie: may they be written, can images be linked, does the hypervisor get there? */
async function folders(c: Connection, place: Place, bad: typeof warn): Promise<Finding[]> {
  const { imagesDir } = await import('../../vm/images/index.ts')
  const { vmDirOf } = await import('../../client/vms.ts')
  const dir = vmDirOf(place)
  const images = imagesDir(place.config, dir)
  const [there, imagesThere] = [await existing(dir), await existing(images)]
  const findings: Finding[] = []
  for (const [check, want, path] of [
    ['vm folder', dir, there],
    ['image cache', images, imagesThere],
  ] as const) {
    const may = await access(path, constants.W_OK | constants.X_OK).then(
      () => true,
      () => false,
    )
    if (!may)
      findings.push(
        bad(
          check,
          `${path} may not be written by this user; VMs need ${want}.`,
          `See ls -ld ${path}; the agent's user must own it.`,
        ),
      )
  }
  const way = await wayOfHypervisor(c, place, there)
  if (way !== undefined) findings.push(bad('vm folder', way))
  if (findings.length > 0) return findings
  return [await linked(imagesThere, there, images, dir)]
}

async function wayOfHypervisor(c: Connection, place: Place, dir: string): Promise<string | undefined> {
  const { blockedWay, hypervisorUser } = await import('../../vm/access.ts')
  const type = place.config.vm.accelerator === 'kvm' ? 'kvm' : 'qemu'
  try {
    const who = await hypervisorUser({ query: c }, type)
    return who === undefined || who.uid === 0 ? undefined : await blockedWay(dir, who)
  } catch (error) {
    if (!isLibvirtError(error)) throw error
    return undefined // a driver without such users
  }
}

/** Really made: a link does not cross mounts, even of one filesystem. */
async function linked(from: string, to: string, images: string, dir: string): Promise<Finding> {
  const check = 'vm folder'
  const made: string[] = []
  try {
    const a = await mkdtemp(join(from, '.vmspool-doctor-'))
    made.push(a)
    const b = await mkdtemp(join(to, '.vmspool-doctor-'))
    made.push(b)
    await writeFile(join(a, 'image'), 'x')
    await link(join(a, 'image'), join(b, 'base'))
    return ok(check, `${dir}; images of ${images} are linked into it, not copied`)
  } catch (error) {
    return note(
      check,
      `${dir}; images of ${images} cannot be linked into it (${codeOf(error)}), so each VM gets a copy.`,
      'Put images.dir and vm.dir on one mount of one filesystem.',
    )
  } finally {
    for (const folder of made) await rm(folder, { recursive: true, force: true })
  }
}

async function seeds(bad: typeof warn): Promise<Finding> {
  for (const program of ['xorriso', 'genisoimage']) {
    const found = await output(program, ['--version'])
    if (found !== undefined) return ok('seeds', found.text.split('\n')[0] ?? program)
  }
  return bad(
    'seeds',
    'Neither xorriso nor genisoimage is installed: VMs with cloud-init cannot be made.',
    'apt-get install --no-install-recommends xorriso',
  )
}

/** What is wrong with the registry, and what differs from it, as the agent saw it. */
async function registry(place: Place): Promise<Finding[]> {
  const { registryFaults } = await import('../../vm/registry.ts')
  const { vmDirOf, vmsOf } = await import('../../client/vms.ts')
  const dir = vmDirOf(place)
  const findings = (await registryFaults(dir)).map((f) => warn('vm registry', f))
  try {
    const { vms, reports, orphans } = await vmsOf(place, { live: false })
    const drift = reports.flatMap((r) => r.drift)
    for (const d of drift.slice(0, MOST_DRIFT)) findings.push(warn('vm drift', d.message))
    if (drift.length > MOST_DRIFT)
      findings.push(warn('vm drift', `… and ${drift.length - MOST_DRIFT} more: vmspool vm list`))
    if (orphans.length > 0)
      findings.push(
        note(
          'vm leftovers',
          `${orphans.length} domains or folders belong to no VM.`,
          'vmspool vm gc says what they are.',
        ),
      )
    for (const r of reports)
      if (r.libvirt.state !== 'connected')
        findings.push(
          warn(
            'vm drift',
            `The agent on ${r.host} does not reach libvirt since ${r.libvirt.since}: ${r.libvirt.reason ?? r.libvirt.state}.`,
          ),
        )
    if (findings.length === 0) findings.push(ok('vm registry', `${vms.length} VMs in ${dir}`))
  } catch (error) {
    findings.push(note('vm registry', (error as Error).message))
  }
  return findings
}
