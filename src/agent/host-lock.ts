/**
 * One main agent per instance and host. The lock is a listening socket in Linux' abstract namespace: bind(2) has one winner,
 * and the kernel takes the name back the moment its owner dies, so a killed agent's place is free at once and nothing can be stale.
 * Whoever connects is told who holds it. The name contains a secret of the spool, so that no stranger can occupy it.
 */
import { createHash, randomBytes } from 'node:crypto'
import { linkSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server } from 'node:net'
import { join } from 'node:path'

export interface LockHolder {
  pid: number
  /** RFC 3339 */
  since: string
  owner?: string
}

export type LockResult = { held: true; release(): Promise<void> } | { held: false; holder: LockHolder | undefined }

/** The spool's secret, made by the first agent. link(2) lets one of several that start at once win. */
function secretOf(daemonDir: string): string {
  const path = join(daemonDir, '.main-lock')
  try {
    return readFileSync(path, 'utf8')
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT') return ''
  }
  const temp = join(daemonDir, `.main-lock.${process.pid}.${randomBytes(4).toString('hex')}.tmp`)
  try {
    writeFileSync(temp, randomBytes(16).toString('hex'), { mode: 0o600, flag: 'wx' })
    linkSync(temp, path)
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'EEXIST') throw e
  } finally {
    rmSync(temp, { force: true })
  }
  return readFileSync(path, 'utf8')
}

function nameOf(purpose: string, dir: string, secret: string): string {
  const id = createHash('sha256')
    .update(`${realpathSync(dir)}\0${secret}`)
    .digest('hex')
    .slice(0, 40)
  return `\0vmspool/${purpose}/${id}`
}

/**
 * The right to be the main agent of a spool on this host.
 * @param dir the folder that the lock is about; every agent of the instance on this host sees it under some path
 * @param secretDir where the secret lies
 */
export function lockHost(dir: string, secretDir: string, holder: LockHolder): Promise<LockResult> {
  return bind(nameOf('main', dir, secretOf(secretDir)), holder)
}

/** The right to put sockets into a runtime folder: spools of the same name below two roots would share it. */
export function lockFolder(dir: string, holder: LockHolder): Promise<LockResult> {
  return bind(nameOf('dir', dir, ''), holder)
}

async function bind(name: string, holder: LockHolder): Promise<LockResult> {
  const server: Server = createServer((c) => {
    c.on('error', () => {})
    c.end(JSON.stringify(holder))
  })
  server.unref()
  const bound = await new Promise<boolean>((resolve, reject) => {
    server.once('error', (e: NodeJS.ErrnoException) => (e.code === 'EADDRINUSE' ? resolve(false) : reject(e)))
    server.listen(name, () => resolve(true))
  })
  if (!bound) return { held: false, holder: await ask(name) }
  server.on('error', () => {})
  return { held: true, release: () => new Promise((resolve) => server.close(() => resolve())) }
}

/** A stopped holder holds, but does not answer. */
function ask(name: string): Promise<LockHolder | undefined> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    const c = connect(name)
    const timer = setTimeout(() => c.destroy(), 500)
    c.on('data', (d: Buffer) => chunks.push(d))
    c.on('error', () => {})
    c.on('close', () => {
      clearTimeout(timer)
      try {
        resolve(JSON.parse(Buffer.concat(chunks).toString('utf8')))
      } catch {
        resolve(undefined)
      }
    })
  })
}
