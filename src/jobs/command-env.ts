/**
 * The environment of a command and its credentials. Secrets are named in a manifest and never stand in it: they are read when the program is
 * about to start, with the rights of whoever dropped the job, and lie in memory (tmpfs) where there is any, in a folder that only he may open.
 */
import { randomBytes } from 'node:crypto'
import { chown, lstat, mkdir, readFile, rm, rmdir, statfs, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { type Submitter, submitterOf } from '../images/submitter.ts'
import type { CommandManifest } from '../manifest/index.ts'
import { bootId } from '../process/index.ts'
import { withFileOf } from './command-file.ts'
import { EnvFileError, parseEnvFile } from './env-file.ts'
import { type JobDrop, JobError } from './types.ts'

interface PreparedEnvironment {
  /** what the manifest adds to the program's environment: those of `env_file` first, then `env`, then CREDENTIALS_DIRECTORY */
  env: Record<string, string>
  /** one file for each credential, for the program's user alone; {@link disposeEnvironment} MUST follow when the program has ended */
  credentialsDir?: string
}

/** As systemd bounds credentials and environment files: 1 MiB. */
const MOST_BYTES = 1 << 20
const RECORD = 'credentials.json'
const PREFIX = 'vmspool-credentials-'
/** statfs(2): tmpfs and ramfs, which no disk ever sees */
const IN_MEMORY = new Set([0x01021994, 0x858458f6])

/**
 * @param o.us effective uid of the agent: a name of its own credentials is for root and itself alone
 * @throws {JobError} env-file, credential, submitter-permission, not-found, …: what cannot be read, and why
 */
export async function prepareEnvironment(
  m: CommandManifest,
  o: { drop: JobDrop; attemptDir: string; us: number },
): Promise<PreparedEnvironment> {
  const c = m.command
  const who = await submitterOf(o.drop.uid, o.drop.gid)
  const env: Record<string, string> = {}
  for (const path of [c.env_file ?? []].flat())
    Object.assign(env, envOf(path, await readAs(path, who, 'command.env_file')))
  const given = Object.entries(c.credentials ?? {})
  const contents = new Map<string, Buffer>()
  for (const [name, from] of given) contents.set(name, await credential(name, from, who, o.us))
  for (const [name, value] of Object.entries(c.env ?? {})) {
    if (typeof value === 'string') env[name] = value
    else {
      const wanted = value.credential
      const content = contents.get(wanted) ?? (await credential(wanted, wanted, who, o.us))
      env[name] = variable(name, wanted, content)
    }
  }
  if (given.length === 0) return { env }
  const dir = await writeCredentials(contents, who, o)
  return { env: { ...env, CREDENTIALS_DIRECTORY: dir }, credentialsDir: dir }
}

/** Removes the credentials that an attempt at a job left, also one of an agent that died. Those of another host or boot are gone, or not ours. */
export async function disposeEnvironment(attemptDir: string): Promise<void> {
  const path = join(attemptDir, RECORD)
  let record: { dir: string; boot_id: string }
  try {
    record = JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  if (record.boot_id === bootId() && basename(record.dir).startsWith(PREFIX)) {
    await rm(record.dir, { recursive: true, force: true })
    await rmdir(dirname(record.dir)).catch(() => {}) // the last one takes the folder of all with it
  }
  await rm(path, { force: true })
}

function failed(message: string, code: string, hint: string, cause?: unknown): JobError {
  return new JobError(message, {
    code,
    transient: false,
    hint,
    phase: 'start',
    ...(cause === undefined ? {} : { cause }),
  })
}

async function readAs(path: string, who: Submitter, field: string): Promise<Buffer> {
  return withFileOf(path, who, field, async (file) => {
    if (file.stat.size > MOST_BYTES)
      throw failed(
        `${field}: ${JSON.stringify(path)} has ${file.stat.size} bytes, and at most ${MOST_BYTES} are read.`,
        'too-large',
        'Pass a path instead, and let the program read it.',
      )
    return file.handle.readFile()
  })
}

function envOf(path: string, content: Buffer): Record<string, string> {
  try {
    return parseEnvFile(content.toString('utf8'))
  } catch (error) {
    if (!(error instanceof EnvFileError)) throw error
    throw failed(
      `command.env_file: ${JSON.stringify(path)}, line ${error.line}: ${error.message}`,
      'env-file',
      'It holds lines NAME=value, with quotes and comments as in systemd.exec(5), EnvironmentFile.',
    )
  }
}

/** The content of a credential: a file of the submitter's, or one that systemd gave to the agent (LoadCredential). */
async function credential(name: string, from: string, who: Submitter, us: number): Promise<Buffer> {
  if (from.startsWith('/')) return readAs(from, who, `command.credentials.${name}`)
  const dir = process.env.CREDENTIALS_DIRECTORY
  if (who.uid !== 0 && who.uid !== us)
    throw failed(
      `The credential "${from}" is one of the agent's own, which are for root and for the agent's user, and the job was dropped by uid ${who.uid}.`,
      'not-allowed',
      `Name a file that this user may read: command.credentials: {${name}: /path/of/a/file}.`,
    )
  const why =
    dir === undefined
      ? 'and the agent was given none (CREDENTIALS_DIRECTORY is not set)'
      : `and there is none of that name in ${dir}`
  const hint = `Add LoadCredential=${from}:/path to the agent's unit, or name a file: command.credentials: {${name}: /path/of/a/file}.`
  if (dir !== undefined && /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/.test(from)) {
    try {
      const path = join(dir, from)
      if ((await lstat(path)).isFile()) return await readFile(path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    }
  }
  throw failed(
    `The credential "${from}" is neither an absolute path nor one of the agent's, ${why}.`,
    'credential',
    hint,
  )
}

function variable(name: string, from: string, content: Buffer): string {
  const text = content.toString('utf8').replace(/\r?\n$/, '')
  if (content.includes(0) || Buffer.byteLength(text) > 131_000)
    throw failed(
      `The credential "${from}" cannot be the value of the variable ${name}: it holds a NUL byte or is longer than a variable may be.`,
      'credential',
      'Let the program read it from $CREDENTIALS_DIRECTORY.',
    )
  return text
}

/** MUST be written down before the folder is made: whoever finds the record removes what it names. */
async function writeCredentials(
  contents: ReadonlyMap<string, Buffer>,
  who: Submitter,
  o: { attemptDir: string; us: number },
): Promise<string> {
  const parent = await memoryFolder(o.us, o.attemptDir)
  const dir = join(parent, `${PREFIX}${randomBytes(8).toString('hex')}`)
  await writeFile(join(o.attemptDir, RECORD), JSON.stringify({ dir, boot_id: bootId() }), { mode: 0o600 })
  await mkdir(dir, { mode: 0o700 })
  for (const [name, content] of contents) {
    const path = join(dir, name)
    await writeFile(path, content, { mode: 0o400, flag: 'wx' })
    if (who.uid !== o.us) await chown(path, who.uid, who.gid)
  }
  if (who.uid !== o.us) await chown(dir, who.uid, who.gid)
  return dir
}

/** A folder that others may pass and not list, in memory; where there is no such place, the attempt's own. */
async function memoryFolder(us: number, attemptDir: string): Promise<string> {
  const runtime = us === 0 ? '/run' : process.env.XDG_RUNTIME_DIR
  if (!runtime) return attemptDir
  const dir = join(runtime, 'vmspool-credentials')
  try {
    if (!IN_MEMORY.has((await statfs(runtime)).type >>> 0)) return attemptDir
    await mkdir(dir, { mode: 0o711, recursive: true })
    const s = await lstat(dir)
    return s.isDirectory() && s.uid === us && (s.mode & 0o022) === 0 ? dir : attemptDir
  } catch {
    return attemptDir
  }
}
