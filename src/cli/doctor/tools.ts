/** Programs that vmspool runs: are they there, which version, can they do what is asked of them. */
import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type Finding, fail, note, ok, warn } from './types.ts'

const exec = promisify(execFile)

/** Runs a program for its output; undefined when it does not exist. */
export async function output(program: string, args: string[]): Promise<{ text: string; code: number } | undefined> {
  try {
    const { stdout, stderr } = await exec(program, args, { timeout: 10_000, maxBuffer: 4 << 20 })
    return { text: `${stdout}${stderr}`, code: 0 }
  } catch (error) {
    const failed = error as { code?: unknown; stdout?: string; stderr?: string }
    if (failed.code === 'ENOENT' || failed.code === 'EACCES') return undefined
    return {
      text: `${failed.stdout ?? ''}${failed.stderr ?? ''}`,
      code: typeof failed.code === 'number' ? failed.code : -1,
    }
  }
}

function versionIn(text: string): number[] {
  const m = /version (\d+)\.(\d+)(?:\.(\d+))?/.exec(text)
  return m === null ? [] : m.slice(1).map((n) => Number(n ?? 0))
}

export async function checkTools(): Promise<Finding[]> {
  return [node(), ...(await Promise.all([qemuImg(), prlimit(), perl(), qemuSystem()]))]
}

function node(): Finding {
  const major = Number(process.versions.node.split('.')[0])
  const detail = `${process.version} (${process.execPath})`
  if (major >= 26) return ok('node', detail)
  return fail(
    'node',
    detail,
    'vmspool brings its own Node 26: run it through bin/vmspool, after `npm ci` in its folder.',
  )
}

async function qemuImg(): Promise<Finding> {
  const found = await output('qemu-img', ['--version'])
  const install =
    'Install it: apt-get install --no-install-recommends qemu-utils (Debian, Ubuntu), dnf install qemu-img (Fedora, RHEL).'
  if (found === undefined) return fail('qemu-img', 'It is not installed, and conversions need it.', install)
  const [major = 0, minor = 0] = versionIn(found.text)
  const version = found.text.split('\n')[0] ?? ''
  if (major < 5 || (major === 5 && minor < 1)) {
    return fail('qemu-img', `${version} is too old: zstd compression and safe option handling came with 5.1.`, install)
  }
  const formats = (await output('qemu-img', ['--help']))?.text ?? ''
  const missing = ['vmdk', 'vhdx', 'vpc', 'vdi', 'raw', 'qcow2'].filter((f) => !new RegExp(`\\b${f}\\b`).test(formats))
  if (missing.length > 0) {
    return warn(
      'qemu-img',
      `${version}; it cannot read ${missing.join(', ')}.`,
      'Install the block driver package of your distribution (qemu-block-extra) or a fuller build.',
    )
  }
  if (!(await makesZstd())) {
    return note(
      'qemu-img',
      `${version}; built without zstd, so compressed output uses zlib and takes several times longer.`,
    )
  }
  return ok('qemu-img', version)
}

/** Whether this build can write zstd-compressed qcow2: by making an empty one. */
async function makesZstd(): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'vmspool-doctor-'))
  try {
    const made = await output('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-o',
      'compression_type=zstd',
      join(folder, 'z.qcow2'),
      '1M',
    ])
    return made?.code === 0
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function prlimit(): Promise<Finding> {
  const found = await output('prlimit', ['--version'])
  if (found === undefined) {
    return fail(
      'prlimit',
      'It is not installed; untrusted images are inspected under its limits.',
      'Install util-linux.',
    )
  }
  return ok('prlimit', found.text.trim())
}

/** The shim of every command is written in it, with nothing beyond its core; logs are compressed with gzip. */
async function perl(): Promise<Finding> {
  const works = await output('perl', ['-e', 'print "perl $^V"; exit(system("gzip --version >/dev/null") ? 3 : 0)'])
  if (works === undefined) {
    return fail(
      'perl',
      'It is not installed; every command that vmspool runs is carried by a small perl program.',
      'Install it: apt-get install --no-install-recommends perl-base (Debian, Ubuntu), dnf install perl-interpreter (Fedora, RHEL).',
    )
  }
  if (works.code === 3) {
    return note('perl', `${works.text.trim()}; gzip is missing, so rotated logs are kept as they are.`, 'Install gzip.')
  }
  return ok('perl', works.text.trim())
}

async function qemuSystem(): Promise<Finding> {
  const arch = process.arch === 'arm64' ? 'aarch64' : 'x86_64'
  for (const program of [`qemu-system-${arch}`, '/usr/libexec/qemu-kvm', 'qemu-kvm']) {
    const found = await output(program, ['--version'])
    if (found !== undefined) return ok('qemu-system', found.text.split('\n')[0] ?? '')
  }
  return note(
    'qemu-system',
    `qemu-system-${arch} is not installed. Conversions do not need it, running VMs does.`,
    'To run VMs here: apt-get install qemu-system-x86 (or qemu-kvm).',
  )
}
