import { createHash, randomBytes } from 'node:crypto'
import { chmod, mkdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { join, dirname } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { Document, parse, Scalar, visit } from 'yaml'
import { runGroup, SpawnError } from '../process/index.ts'
import { writeError } from './disk-errors.ts'
import { exists, placeWhole } from './disk-files.ts'
import { type CloudInit, VmError, type VmHooks } from './types.ts'

/** The files of a NoCloud seed (https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html), whole texts. */
export interface SeedFiles {
  'user-data': string
  'meta-data': string
  'network-config'?: string
}

/**
 * What the seed says. The instance id follows from everything else in it and from `instance_id`, so that cloud-init applies a changed seed
 * again, and an unchanged one not.
 * @throws {VmError} vm-invalid
 */
export function seedFiles(o: { instance_id: string; cloud_init: CloudInit; macs?: readonly string[] }): SeedFiles {
  const user = o.cloud_init.user_data === undefined ? cloudConfig(o.cloud_init) : givenUserData(o.cloud_init.user_data)
  const network = networkConfig(o.cloud_init, o.macs ?? [])
  const meta = { 'local-hostname': o.cloud_init.hostname, ...o.cloud_init.meta_data }
  const digest = createHash('sha256')
    .update(JSON.stringify([o.instance_id, user, meta, network ?? null]))
    .digest('hex')
  return {
    'user-data': user,
    'meta-data': yaml({ 'instance-id': `${o.instance_id}-${digest.slice(0, 16)}`, ...meta }),
    ...(network === undefined ? {} : { 'network-config': network }),
  }
}

/**
 * Writes the seed as an ISO 9660 image; xorriso makes the same bytes of the same content. It may hold secrets: nobody but its owner and the hypervisor,
 * whom libvirt lets in, can read it. One that is there already with that content stays.
 * @param o.path absolute, in the VM's folder; @param o.instance_id of the VM, e.g. its uuid; @param o.macs of all cards
 * @throws {VmError} vm-invalid, storage
 */
export async function writeSeed(o: {
  path: string
  name: string
  instance_id: string
  cloud_init: CloudInit
  macs?: readonly string[]
  hooks: VmHooks
}): Promise<void> {
  const files = seedFiles(o)
  const digest = createHash('sha256').update(JSON.stringify(files)).digest('hex')
  try {
    if (await holds(o.path, digest)) return
    // while a VM runs it keeps reading what it has open
    await rm(o.path, { force: true })
    await placeWhole(o.path, (temporary) => makeIso(temporary, files, digest, o.hooks))
  } catch (e) {
    o.hooks.signal.throwIfAborted()
    const error = await writeError(e, { path: o.path, what: `The cloud-init seed of the VM "${o.name}"` })
    if (error instanceof VmError) error.phase = 'seed'
    throw error
  }
}

/** What a guest may say without a word from us: DHCP on every card is cloud-init's own way. */
function cloudConfig(c: CloudInit): string {
  const account = {
    ...(c.ssh_keys?.length ? { ssh_authorized_keys: c.ssh_keys } : {}),
    ...(c.password_hash === undefined ? {} : { hashed_passwd: c.password_hash, lock_passwd: false }),
  }
  const users =
    c.user === undefined
      ? {
          ...(c.ssh_keys?.length ? { ssh_authorized_keys: c.ssh_keys } : {}),
          // of the image's own user, whatever he is called
          ...(c.password_hash === undefined
            ? {}
            : { password: c.password_hash, chpasswd: { expire: false }, ssh_pwauth: false }),
        }
      : c.user === 'root'
        ? { disable_root: false, users: [{ name: 'root', ...account }] }
        : {
            users: [
              {
                name: c.user,
                groups: ['sudo', 'wheel'],
                sudo: 'ALL=(ALL) NOPASSWD:ALL',
                shell: '/bin/bash',
                ...account,
              },
            ],
          }
  const [host] = c.hostname.split('.')
  return `#cloud-config\n${yaml({
    hostname: host,
    ...(c.hostname.includes('.') ? { fqdn: c.hostname } : {}),
    ...users,
    ...(c.packages?.length ? { package_update: true, packages: c.packages } : {}),
    ...(c.run?.length ? { runcmd: c.run } : {}),
  })}`
}

/** cloud-init goes by the first line, and silently takes nothing from what it does not know. */
function givenUserData(text: string): string {
  if (/^(#!|#cloud-|#include|#part-handler|## template:|Content-Type: multipart|MIME-Version:|From )/i.test(text))
    return text
  throw new VmError(
    `The user-data begins with ${JSON.stringify(text.split('\n', 1)[0]!.slice(0, 60))}; cloud-init would take nothing from it, and not say so.`,
    {
      code: 'vm-invalid',
      phase: 'seed',
      hint: 'Let its first line say what it is: "#cloud-config", or "#!" and a program.',
    },
  )
}

/** Version 2, which netplan and cloud-init both read; the first card is found by its MAC address, since its name depends on the guest. */
function networkConfig(c: CloudInit, macs: readonly string[]): string | undefined {
  const n = c.network
  if (n === undefined) return undefined
  if (n.config) {
    const inner = (n.config.network ?? n.config) as { version?: unknown }
    if (inner.version !== 1 && inner.version !== 2)
      throw new VmError('The network configuration for cloud-init names no version; 1 and 2 are known.', {
        code: 'vm-invalid',
        phase: 'seed',
        hint: 'Let it begin with "version: 2".',
      })
    return yaml(inner)
  }
  if (n.address === undefined && n.gateway === undefined && !n.nameservers?.length) return undefined
  if (n.address === undefined && n.gateway !== undefined)
    throw new VmError('cloud_init.network has a gateway but no address: with DHCP the gateway comes from there too.', {
      code: 'vm-invalid',
      phase: 'seed',
      hint: 'Give address, such as "192.0.2.10/24", or leave gateway out.',
    })
  const v6 = n.address?.includes(':') ?? false
  if (n.gateway !== undefined && n.gateway.includes(':') !== v6)
    throw new VmError(
      `The gateway ${n.gateway} and the address ${n.address} of cloud_init.network are not of one kind.`,
      {
        code: 'vm-invalid',
        phase: 'seed',
        hint: 'Give both as IPv4 or both as IPv6; for both kinds at once use cloud_init.network.config.',
      },
    )
  return yaml({
    version: 2,
    ethernets: {
      first: {
        match: macs[0] === undefined ? { name: 'e*' } : { macaddress: macs[0] },
        ...(n.address === undefined
          ? { dhcp4: true }
          : {
              dhcp4: false,
              addresses: [n.address],
              ...(n.gateway === undefined ? {} : { routes: [{ to: v6 ? '::/0' : '0.0.0.0/0', via: n.gateway }] }),
            }),
        ...(n.nameservers?.length ? { nameservers: { addresses: n.nameservers } } : {}),
      },
      // a card that is not named would stay without
      ...Object.fromEntries(
        macs.slice(1).map((mac, i) => [`card${i + 2}`, { match: { macaddress: mac }, dhcp4: true, optional: true }]),
      ),
    },
  })
}

/** A text that no reader of YAML takes for anything else. */
const PLAIN = /^(?!(?:y|n|yes|no|on|off|true|false|null)$)[A-Za-z][\w./-]*$/i
/** Lines that can stand as they are, one below the other. */
const LINES = /^[\x20-\x7e]+(?:\n[\x20-\x7e]*)+$/
/** What PyYAML refuses, or takes for the end of a line, unless it is escaped; only quoted texts have any of it. */
const UNPRINTABLE = /[\x7f-\xa0\u00ad\u2028\u2029\ufeff\ufffe\uffff]/g

/** YAML 1.1 as Python's reader takes it, which is stricter than the standard and knows more words: whatever could be something else is quoted. */
function yaml(value: unknown): string {
  const doc = new Document(value, { version: '1.1', aliasDuplicateObjects: false })
  let writable = true
  visit(doc, {
    Scalar(_, node) {
      if (typeof node.value !== 'string') return
      // the library writes << bare whatever it is told, and then it is a command; half a character is no text
      if (node.value === '<<' || !node.value.isWellFormed()) writable = false
      if (!PLAIN.test(node.value) && !LINES.test(node.value)) node.type = Scalar.QUOTE_DOUBLE
    },
  })
  const text = doc
    .toString({ lineWidth: 0 })
    .replace(UNPRINTABLE, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
  if (writable && comesBack(text, value)) return text
  throw new VmError('The cloud-init fields cannot be written as YAML without a change.', {
    code: 'vm-invalid',
    phase: 'seed',
    hint: 'Look for "<<" in them, and for broken characters; or give user_data as a whole.',
  })
}

/** Whatever a text contains, it must come out again as it went in. */
function comesBack(text: string, value: unknown): boolean {
  try {
    return isDeepStrictEqual(parse(text, { version: '1.1' }), JSON.parse(JSON.stringify(value)))
  } catch {
    return false
  }
}

/** Where ISO 9660 keeps what made the image, ECMA-119 8.4.22: 128 characters of the primary volume descriptor, in sector 16. */
const APPLICATION = { at: 16 * 2048 + 574, length: 128 }

async function holds(path: string, digest: string): Promise<boolean> {
  if (!(await exists(path))) return false
  const bytes = await readFile(path).catch((e: NodeJS.ErrnoException) => {
    // libvirt has given it to the hypervisor's user: it is in use, and written anew all the same
    if (e.code === 'EACCES') return Buffer.alloc(0)
    throw e
  })
  return bytes.toString('latin1', APPLICATION.at, APPLICATION.at + APPLICATION.length).trim() === mark(digest)
}

const mark = (digest: string): string => `VMSPOOL ${digest.toUpperCase()}`

/** 1980: FAT, zip and cloud-init all know it */
const DATE = { s: 315_532_800, volume: '1980010100000000' }

async function makeIso(path: string, files: SeedFiles, digest: string, hooks: VmHooks): Promise<void> {
  const dir = join(dirname(path), `.seed.${randomBytes(6).toString('hex')}.tmp`)
  await mkdir(dir, { mode: 0o700 })
  try {
    for (const [name, text] of Object.entries(files)) {
      const file = join(dir, name)
      await writeFile(file, text, { mode: 0o600 })
      await utimes(file, DATE.s, DATE.s)
    }
    await chmod(dir, 0o700)
    await utimes(dir, DATE.s, DATE.s)
    // exists before the program writes into it, so that its mode is ours
    await writeFile(path, '', { mode: 0o600 })
    const common = ['-quiet', '-V', 'CIDATA', '-A', mark(digest), '-J', '-r', '-o', path, dir]
    const found = await firstOf(
      [
        [
          'xorriso',
          '-as',
          'mkisofs',
          `--modification-date=${DATE.volume}`,
          '--set_all_file_dates',
          DATE.volume,
          ...common,
        ],
        ['genisoimage', ...common],
        ['mkisofs', ...common],
      ],
      hooks,
    )
    if (!found)
      throw new VmError('No program that makes ISO images is installed, and the cloud-init seed is one.', {
        code: 'storage',
        phase: 'seed',
        hint: 'Install xorriso (or genisoimage), or create the VM with cloud_init: false.',
      })
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** @returns false when none of the programs is there */
async function firstOf(commands: readonly (readonly string[])[], hooks: VmHooks): Promise<boolean> {
  for (const argv of commands) {
    let stderr = ''
    try {
      const r = await runGroup(argv, {
        signal: hooks.signal,
        onSpawn: hooks.spawned,
        cwd: '/',
        // a date for programs that know none of the options
        env: { LC_ALL: 'C', TZ: 'UTC', SOURCE_DATE_EPOCH: String(DATE.s) },
        onStdout: () => {},
        onStderr: (c) => {
          stderr = (stderr + c.toString('utf8')).slice(-4000)
        },
      })
      hooks.signal.throwIfAborted()
      if (r.exit_code === 0) return true
      throw failed(argv[0]!, stderr, r)
    } catch (e) {
      if (!(e instanceof SpawnError) || e.code !== 'ENOENT') throw e
    }
  }
  return false
}

function failed(program: string, stderr: string, r: { exit_code: number | null; signal: string | null }): unknown {
  const why = stderr.trim().split('\n').slice(-3).join(' ') || (r.signal ?? `exit code ${r.exit_code}`)
  if (/No space left|quota exceeded/i.test(stderr)) return Object.assign(new Error(why), { code: 'ENOSPC' })
  return new VmError(`${program} could not make the cloud-init seed: ${why}`, {
    code: 'storage',
    phase: 'seed',
    hint: 'Run the program by hand to see whether it works on this host.',
  })
}
