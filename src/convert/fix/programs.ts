/** Which tools of libguestfs are installed, and what the installed version can do. */
import { access, constants, readdir, stat } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { hiddenBy } from '../../images/index.ts'
import { runGroup } from '../../process/index.ts'
import type { GuestToolSettings } from './types.ts'

/** Something that fixing needs and that this host lacks: what, and what to do. */
export class NotPossible extends Error {
  readonly hint: string
  constructor(message: string, hint: string) {
    super(message)
    this.name = 'NotPossible'
    this.hint = hint
  }
}

export interface V2v {
  program: string
  version: string
  /** lines of --machine-readable, such as `in-place`, `input:libvirtxml`, `convert:windows` */
  features: ReadonlySet<string>
}

/** RHEL keeps it out of PATH. */
const ELSEWHERE = ['/usr/libexec', '/usr/local/libexec', '/usr/lib/virt-v2v']

async function executable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK)
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}

/** The path of a program in PATH, in /usr/sbin, or where virt-v2v-in-place is hidden. */
export async function findProgram(name: string): Promise<string | undefined> {
  const dirs = `${process.env.PATH ?? ''}${delimiter}/usr/sbin`.split(delimiter)
  for (const dir of [...dirs, ...ELSEWHERE])
    if (dir !== '' && (await executable(join(dir, name)))) return join(dir, name)
  return undefined
}

/** What a program prints; undefined when it cannot be run or fails. */
export async function printed(argv: readonly string[], stdin?: string): Promise<string | undefined> {
  let text = ''
  try {
    const r = await runGroup(argv, {
      stdin: stdin ?? 'ignore',
      env: { LC_ALL: 'C' },
      signal: AbortSignal.timeout(20_000),
      onStdout: (c) => {
        if (text.length < 1 << 20) text += c.toString('utf8')
      },
    })
    return r.exit_code === 0 ? text : undefined
  } catch {
    return undefined
  }
}

const INSTALL_V2V =
  'Install it: apt-get install virt-v2v nbdkit (Debian, Ubuntu), dnf install virt-v2v (Fedora, RHEL); "vmspool doctor" says what else is missing.'

/** @throws {NotPossible} */
export async function probeV2v(s: GuestToolSettings): Promise<V2v> {
  const program = s.virt_v2v_in_place ?? (await findProgram('virt-v2v-in-place'))
  if (program === undefined || !(await executable(program)))
    throw new NotPossible('virt-v2v-in-place is not installed here.', INSTALL_V2V)
  const text = await printed([program, '--machine-readable'])
  if (text === undefined)
    throw new NotPossible(`${program} does not start.`, `Run "${program} --machine-readable" by hand and see why.`)
  const features = parseFeatures(text)
  if (!features.has('in-place') || !features.has('input:libvirtxml'))
    throw new NotPossible(
      `${program} cannot convert in place from libvirt XML (its features: ${[...features].join(', ')}).`,
      INSTALL_V2V,
    )
  const version = (await printed([program, '--version']))?.trim() ?? 'of unknown version'
  for (const [needed, why] of [
    ['nbdkit', 'apt-get install nbdkit (Debian, Ubuntu), dnf install nbdkit (Fedora, RHEL)'],
    ['qemu-nbd', 'apt-get install qemu-utils (Debian, Ubuntu), dnf install qemu-img (Fedora, RHEL)'],
  ] as const) {
    if ((await findProgram(needed)) === undefined)
      throw new NotPossible(`${version} needs ${needed}, which is not installed.`, `Install it: ${why}.`)
  }
  return { program, version, features }
}

/** The list that `--machine-readable` prints: one feature a line. */
export function parseFeatures(text: string): ReadonlySet<string> {
  return new Set(
    text
      .split('\n')
      .map((l) => l.trim())
      .filter((l) => /^[\w:./+-]+$/.test(l)),
  )
}

/** @throws {NotPossible} */
export async function needTool(name: 'virt-customize' | 'virt-inspector' | 'virt-cat'): Promise<string> {
  const found = await findProgram(name)
  if (found !== undefined) return found
  throw new NotPossible(
    `${name} is not installed here.`,
    'Install it: apt-get install guestfs-tools (Debian 12, Ubuntu 22.04 or later; before that libguestfs-tools), dnf install guestfs-tools (Fedora, RHEL).',
  )
}

/**
 * The kernel that libguestfs boots its appliance with, as environment variables for supermin (supermin(1)); nothing when supermin finds
 * one by itself. @throws {NotPossible} with the steps to take
 */
export async function applianceKernel(s: GuestToolSettings): Promise<Record<string, string>> {
  if (s.appliance !== undefined) {
    for (const f of ['kernel', 'initrd', 'root'])
      if (!(await readable(join(s.appliance, f))))
        throw new NotPossible(
          `fix.appliance names ${s.appliance}, which holds no readable "${f}".`,
          'Make one with libguestfs-make-fixed-appliance, or leave fix.appliance out.',
        )
    return { LIBGUESTFS_PATH: s.appliance }
  }
  if ((await findProgram('supermin')) === undefined)
    throw new NotPossible(
      'supermin is not installed, which builds the appliance of libguestfs.',
      'Install it: apt-get install supermin (Debian, Ubuntu), dnf install supermin (Fedora, RHEL).',
    )
  await modulesAreShown()
  const kernel = s.kernel ?? process.env.SUPERMIN_KERNEL
  if (kernel !== undefined) return namedKernel(kernel, s.modules ?? process.env.SUPERMIN_MODULES)
  const found = await hostKernels()
  if (found.some((k) => k.usable)) return {}
  const locked = found.find((k) => k.modules && !k.readable)
  if (locked)
    throw new NotPossible(
      `The kernel ${locked.path} may not be read by uid ${process.geteuid?.()}, and libguestfs boots its appliance with it.`,
      `Let it be read: chmod 0644 ${locked.path} (on Ubuntu: dpkg-statoverride --update --add root root 0644 ${locked.path}), or name another one with fix.kernel.`,
    )
  throw new NotPossible(
    'There is no Linux kernel with modules on this host (/boot/vmlinuz-*, /lib/modules/*/vmlinuz), and libguestfs needs one for its appliance.',
    'On a host: install the distribution\'s kernel package. In a container: apt-get download a linux-image-…-cloud-amd64 package, "dpkg -x" it into a folder, "depmod -b FOLDER VERSION", "mkdir -p /lib/modules", and set fix.kernel to FOLDER/boot/vmlinuz-VERSION.',
  )
}

/** @throws {NotPossible} where a unit with ProtectKernelModules= hides what supermin looks into, whatever kernel it is given */
async function modulesAreShown(): Promise<void> {
  const by = (await hiddenBy('/usr/lib/modules')) ?? (await hiddenBy('/lib/modules'))
  if (by)
    throw new NotPossible(
      `The unit ${by.unit} hides ${by.point} from the agent, and libguestfs needs it for its appliance, whatever kernel it is given.`,
      `As root run \`vmspool-install --fix\` (or ./install.sh --fix), or \`systemctl edit ${by.unit}\`, lines "[Service]" and "ProtectKernelModules=no"; then \`systemctl restart ${by.unit}\`. Or name a ready appliance with fix.appliance.`,
    )
}

async function namedKernel(kernel: string, modules: string | undefined): Promise<Record<string, string>> {
  const version = /vmlinuz-(.+)$/.exec(kernel)?.[1]
  const folder = modules ?? (version && kernel.replace(/\/boot\/vmlinuz-.+$/, `/lib/modules/${version}`))
  if (!(await readable(kernel)))
    throw new NotPossible(
      `The kernel ${kernel} cannot be read.`,
      'Correct fix.kernel (or SUPERMIN_KERNEL in the environment of the agent).',
    )
  if (folder === undefined || !(await readable(join(folder, 'modules.dep'))))
    throw new NotPossible(
      `There are no modules for the kernel ${kernel}: ${folder === undefined ? 'no folder is known' : `${folder}/modules.dep is missing`}.`,
      'Name their folder with fix.modules, and run "depmod -b FOLDER VERSION" for it.',
    )
  if (!(await readable('/lib/modules')))
    throw new NotPossible(
      'There is no /lib/modules, and supermin looks into it whatever kernel it is given.',
      'Run "mkdir -p /lib/modules"; it may stay empty.',
    )
  return {
    SUPERMIN_KERNEL: kernel,
    SUPERMIN_MODULES: folder,
    SUPERMIN_KERNEL_VERSION: process.env.SUPERMIN_KERNEL_VERSION ?? version ?? folder.replace(/^.*\//, ''),
  }
}

async function hostKernels(): Promise<{ path: string; modules: boolean; readable: boolean; usable: boolean }[]> {
  const versions = await readdir('/lib/modules').catch(() => [] as string[])
  const paths = [
    ...(await readdir('/boot').catch(() => [] as string[]))
      .filter((f) => f.startsWith('vmlinuz-'))
      .map((f) => [join('/boot', f), f.slice('vmlinuz-'.length)]),
    ...versions.map((v) => [join('/lib/modules', v, 'vmlinuz'), v]),
  ] as [string, string][]
  const out = []
  for (const [path, version] of paths) {
    if (!(await stat(path).catch(() => undefined))) continue
    const modules = versions.includes(version) && (await readable(join('/lib/modules', version, 'modules.dep')))
    const may = await readable(path)
    out.push({ path, modules, readable: may, usable: modules && may })
  }
  return out
}

async function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  )
}
