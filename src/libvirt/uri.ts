/*
 * Connection URIs as libvirt reads them (https://libvirt.org/uri.html), as far as this client goes: a Unix socket of this machine, or
 * one of another through ssh. The daemon gets what remains when transport, host and the transport's parameters are taken away.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

export interface UnixTarget {
  transport: 'unix'
  /** what the daemon is asked to open, e.g. qemu:///system */
  driver_uri: string
  socket: string
}
export interface SshTarget {
  transport: 'ssh'
  driver_uri: string
  /** argv of the ssh program; the last word is the command for the other machine */
  argv: readonly [string, ...string[]]
}
export type Target = UnixTarget | SshTarget

/** of the transport: the daemon never sees them */
const OURS = ['name', 'socket', 'mode', 'command', 'netcat', 'keyfile', 'no_tty', 'no_verify', 'proxy']

/**
 * @param env for the session's socket; `exists` tells which of several sockets there is; `readonly` prefers the system's socket for that,
 *   which more users may open
 * @throws TypeError for a URI that is none, or asks for what this client does not do
 */
export function parseUri(
  uri: string,
  o: { env?: NodeJS.ProcessEnv; uid?: number; exists?: (path: string) => boolean; readonly?: boolean } = {},
): Target {
  const wrong = (why: string) => new TypeError(`${JSON.stringify(uri)} cannot be connected to: ${why}`)
  const m = /^([a-z][a-z0-9.-]*)(?:\+([a-z0-9]+))?:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i.exec(uri)
  if (!m) throw wrong('it is no URI like qemu:///system.')
  const driver = m[1]!.toLowerCase()
  const transport = m[2]?.toLowerCase()
  const [authority, path, query] = [m[3]!, m[4] ?? '', new URLSearchParams(m[5] ?? '')]
  const unknown = [...query.keys()].filter((k) => !OURS.includes(k))
  if (unknown.length > 0) throw wrong(`the parameter ${JSON.stringify(unknown[0])} is not known.`)
  const driver_uri = query.get('name') || `${driver}://${path}`

  if (transport === 'ssh') {
    if (authority === '') throw wrong('ssh needs a host: qemu+ssh://user@host/system.')
    const socket = query.get('socket') || `/var/run/libvirt/libvirt-sock`
    return { transport: 'ssh', driver_uri, argv: sshArgv(authority, socket, query, driver_uri, path, wrong) }
  }
  if (transport !== undefined && transport !== 'unix') {
    throw wrong(`the transport ${transport} is not supported; unix and ssh are.`)
  }
  if (authority !== '') throw wrong('a host is reached through ssh only: qemu+ssh://user@host/system.')
  return { transport: 'unix', driver_uri, socket: query.get('socket') || defaultSocket(driver, path, query, o, wrong) }
}

/** libvirt's rule: the session's daemon for …/session, and for users where there is only one kind; else the system's. */
function defaultSocket(
  driver: string,
  path: string,
  query: URLSearchParams,
  o: { env?: NodeJS.ProcessEnv; uid?: number; exists?: (path: string) => boolean; readonly?: boolean },
  wrong: (why: string) => TypeError,
): string {
  const env = o.env ?? process.env
  const root = (o.uid ?? process.getuid?.()) === 0
  const session = path === '/session' || (path !== '/system' && !root)
  let dir = '/run/libvirt'
  if (session) {
    const base = env.XDG_RUNTIME_DIR || env.XDG_CACHE_HOME || (env.HOME && join(env.HOME, '.cache'))
    if (!base) throw wrong('neither XDG_RUNTIME_DIR nor HOME says where the sockets of your session are.')
    dir = join(base, 'libvirt')
  }
  const whole = join(dir, 'libvirt-sock')
  const modular = join(dir, `virt${driver}d-sock`)
  const exists = o.exists ?? existsSync
  // a session has none of its own for reading
  const at = (sock: string): string => (o.readonly && !session && exists(`${sock}-ro`) ? `${sock}-ro` : sock)
  const mode = query.get('mode') ?? 'auto'
  if (mode === 'legacy') return at(whole)
  if (mode === 'direct') return at(modular)
  if (mode !== 'auto') throw wrong(`the mode is ${JSON.stringify(mode)}; auto, legacy and direct are known.`)
  return at(!exists(whole) && exists(modular) ? modular : whole)
}

/** for a POSIX shell */
const quote = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

/** The command line that libvirt itself would run, and the same helper at the other end. */
function sshArgv(
  authority: string,
  socket: string,
  query: URLSearchParams,
  driverUri: string,
  path: string,
  wrong: (why: string) => TypeError,
): [string, ...string[]] {
  const m = /^(?:([^@]+)@)?(\[[0-9a-f:.%]+\]|[^:@[\]]+)(?::(\d{1,5}))?$/i.exec(authority)
  if (!m) throw wrong(`${JSON.stringify(authority)} is no [user@]host[:port].`)
  const [, user, host, port] = m
  const proxy = query.get('proxy') ?? 'auto'
  const netcat = query.get('netcat')
  const nc = quote(netcat || 'nc')
  // some netcats must be told to end with their input (-q0), others do not know the option
  const byNetcat = `if ${nc} -q 2>&1 | grep "requires an argument" >/dev/null 2>&1; then ARG=-q0; else ARG=; fi; ${nc} $ARG -U ${quote(socket)}`
  const byHelper = `virt-ssh-helper ${quote(driverUri)}`
  let script: string
  // only netcat can be told a socket
  if (proxy === 'netcat' || (proxy === 'auto' && (netcat || query.get('socket')))) {
    if (path === '/session' && !query.get('socket'))
      throw wrong('netcat cannot find the socket of a session; give ?socket=.')
    script = byNetcat
  } else if (proxy === 'native') script = byHelper
  else if (proxy === 'auto') {
    script = `if command -v virt-ssh-helper >/dev/null 2>&1; then ${byHelper}; else ${byNetcat}; fi`
  } else throw wrong(`the proxy is ${JSON.stringify(proxy)}; auto, netcat and native are known.`)
  const keyfile = query.get('keyfile')
  return [
    query.get('command') || 'ssh',
    ...(port ? ['-p', port] : []),
    ...(user ? ['-l', decodeURIComponent(user)] : []),
    ...(keyfile ? ['-i', keyfile] : []),
    ...['-T', '-e', 'none'],
    // there is nobody to answer ssh's questions
    ...['-o', 'BatchMode=yes'],
    ...(isOn(query.get('no_verify')) ? ['-o', 'StrictHostKeyChecking=no'] : []),
    ...['--', host!.replace(/^\[(.*)\]$/, '$1')],
    `sh -c ${quote(script)}`,
  ]
}

const isOn = (value: string | null): boolean => value !== null && value !== '' && value !== '0'
