// A real libvirt daemon of our own: in mount, network and process namespaces, so that nothing of the host's libvirt, network or
// processes is seen or changed, and nothing outlives it. Root only, as system daemons are; `sessionLibvirtd` is for everyone.
import { spawn } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { until } from './wait.ts'

export const isRoot = process.getuid?.() === 0
const NOBODY = 65_534

export interface Libvirtd extends AsyncDisposable {
  /** private folder, the same path inside and outside */
  dir: string
  socket: string
  /** for `driver`:///…, with the socket named */
  uri(driver: string): string
  /** qemu:///system through libvirt's own helper for ssh, as a user without rights: instead of ssh, the namespaces are entered */
  uriAsNobody: string
  /** what virsh printed; throws when it fails */
  virsh(uri: string, ...args: string[]): Promise<string>
  /** runs a program where the daemon runs */
  inside(argv: readonly [string, ...string[]], o?: { input?: string; background?: boolean }): Promise<string>
  /** an ssh server beside the daemon, which takes `publicKey` for root; @returns its port on 127.0.0.1 */
  sshd(publicKey: string): Promise<number>
  /** sends the daemon a signal; after SIGKILL or SIGTERM it resolves once the daemon is gone */
  signal(name: 'STOP' | 'CONT' | 'KILL' | 'TERM'): Promise<void>
  /** starts the daemon (again), and resolves when it takes connections */
  start(): Promise<void>
  /** a network with addresses by DHCP that reaches the outside of nothing: dnsmasq, bridge and firewall rules lie in these namespaces */
  natNetwork(name?: string): Promise<NatNetwork>
}

export interface NatNetwork {
  name: string
  bridge: string
  /** what a guest at that address answers over HTTP; throws when it does not */
  ask(address: string, path?: string): Promise<string>
  /** all rules of these namespaces, without the counters */
  firewall(): Promise<string>
}

/** Debian's files of another libvirt, as `dpkg-deb -x` unpacks them, are used instead of the installed ones. */
const OTHER = [
  ...['usr/sbin/libvirtd', 'usr/bin/virt-ssh-helper', 'usr/lib/libvirt', 'usr/share/libvirt'],
  'usr/lib/x86_64-linux-gnu/libvirt',
]
const LIBRARIES = ['libvirt.so.0', 'libvirt-qemu.so.0', 'libvirt-lxc.so.0'].map((l) => `usr/lib/x86_64-linux-gnu/${l}`)

export interface LibvirtdOptions {
  /** libvirtd.conf; default: no authentication */
  conf?: string
  /** unpacked packages of another libvirt; default VMSPOOL_TEST_LIBVIRT_TREE, else what is installed */
  tree?: string
  /** runs polkitd and a system bus beside the daemon, which say this to everyone who asks */
  polkit?: 'yes' | 'no'
  /** as whom guests run; default root. As libvirt-qemu, files are given to them and taken back, as on an installed host */
  guests?: 'root' | 'libvirt-qemu'
}

/** uid and gid of libvirt-qemu on Debian */
export const LIBVIRT_QEMU = 64_055

export async function privateLibvirtd(o: LibvirtdOptions = {}): Promise<Libvirtd> {
  const dir = makeDir()
  const tree = o.tree ?? process.env.VMSPOOL_TEST_LIBVIRT_TREE
  const socket = join(dir, 'run/libvirt/libvirt-sock')
  for (const d of [
    'etc/qemu',
    'run/libvirt',
    'run/lock',
    'var/tmp',
    ...['lib', 'log', 'cache'].map((v) => `var/${v}/libvirt`),
  ]) {
    mkdirSync(join(dir, d), { recursive: true })
  }
  writeFileSync(
    join(dir, 'etc/libvirtd.conf'),
    o.conf ?? 'unix_sock_rw_perms = "0700"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n',
  )
  // where a guest's processes are root's, the daemon has nobody's permissions to arrange; nothing is mounted for a guest
  const guests = o.guests ?? 'root'
  writeFileSync(
    join(dir, 'etc/qemu.conf'),
    [
      ...[`user = "${guests}"`, `group = "${guests}"`, `dynamic_ownership = ${guests === 'root' ? 0 : 1}`],
      ...['security_driver = "none"', 'namespaces = []'],
      ...['cgroup_controllers = []', 'stdio_handler = "file"', ''],
    ].join('\n'),
  )
  // newer ones look for iptables or nft even where no network wants any rules; older ones do not read this
  writeFileSync(join(dir, 'etc/network.conf'), 'firewall_backend = "none"\n')
  // as root, libvirt insists on these users, which only its Debian package for whole systems makes
  for (const [file, line] of [
    [
      'passwd',
      'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\nlibvirt-dnsmasq:x:64056:64056::/:/bin/false\n',
    ],
    ['group', 'libvirt-qemu:x:64055:\nlibvirt-dnsmasq:x:64056:\n'],
  ] as const) {
    const host = readFileSync(join('/etc', file), 'utf8')
      .replace(/^libvirt-(qemu|dnsmasq):.*\n/gm, '')
      // as Debian's package does: where libvirt sees a KVM that guests do not, it looks anew what QEMU can at every call, for seconds
      .replace(/^(kvm:[^:]*:\d+:).*$/m, '$1libvirt-qemu')
    // nothing in there reads or writes what root has at home
    writeFileSync(join(dir, file), host.replace(/^root:(.*):[^:]*:[^:]*$/m, `root:$1:${dir}/home:/bin/sh`) + line)
  }
  if (o.polkit) polkitFiles(dir, o.polkit)
  const mounts = [
    ...[`${dir}/run /run`, `${dir}/var /var`, `${dir}/etc /etc/libvirt`],
    ...[`${dir}/passwd /etc/passwd`, `${dir}/group /etc/group`],
    ...(o.polkit ? [`${dir}/actions /usr/share/polkit-1/actions`] : []),
    ...(tree
      ? [
          ...OTHER.filter((f) => existsSync(join(tree, f))).map((f) => `${join(tree, f)} /${f}`),
          // the links stay, and lead to files with another content
          ...LIBRARIES.map((f) => `${realpathSync(join(tree, f))} ${realpathSync(`/${f}`)}`),
        ]
      : []),
  ]
  const script = [
    'set -e',
    `ln -s /run ${dir}/var/run`,
    // of consoles
    `ln -s /run/lock ${dir}/var/lock`,
    // the private folder lies below one of the places that are covered now
    ...mounts.map((m) => `mount --bind ${m}`),
    'ip link set lo up',
    'echo ready',
    // reaps whatever is orphaned here, and takes all of it along when it ends
    `exec perl -e '$SIG{CHLD} = "IGNORE"; sleep 1000 while 1'`,
  ].join('\n')
  const holder = spawn(
    'unshare',
    ['-m', '-n', '-p', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private', 'sh', '-c', script],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  let complaints = ''
  holder.stderr.on('data', (d: Buffer) => (complaints += d.toString()))
  const gone = new Promise<void>((resolve) => holder.once('close', () => resolve()))
  await new Promise<void>((resolve, reject) => {
    holder.stdout.once('data', () => resolve())
    void gone.then(() => {
      rmSync(dir, { recursive: true, force: true })
      reject(new Error(`The namespaces of the private libvirtd could not be made: ${complaints}`))
    })
  })
  const [init] = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8').trim().split(' ')
  const enter = ['-t', init!, '-m', '-n', '-p', '--']
  const env = { LC_ALL: 'C', PATH: `${process.env.PATH}:/usr/sbin:/sbin` }

  const inside: Libvirtd['inside'] = async (argv, io = {}) => {
    if (io.background) {
      spawn('nsenter', [...enter, ...argv], { stdio: 'ignore', env: { ...process.env, ...env } }).unref()
      return ''
    }
    return (await execa('nsenter', [...enter, ...argv], { env, input: io.input ?? '' })).stdout
  }
  const asNobody = join(dir, 'as-nobody')
  writeFileSync(
    asNobody,
    `#!/bin/sh\nfor last; do :; done\nexec nsenter ${enter.join(' ')} setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups sh -c "$last"\n`,
    { mode: 0o755 },
  )
  const pidfile = join(dir, 'pid')
  const daemon: Libvirtd = {
    dir,
    socket,
    uriAsNobody: `qemu+ssh://here/system?command=${asNobody}`,
    uri: (driver) => `${driver}?socket=${socket}`,
    virsh: (uri, ...args) => virsh(uri, args),
    inside,
    async sshd(publicKey) {
      mkdirSync(join(dir, 'home/.ssh'), { recursive: true, mode: 0o700 })
      writeFileSync(join(dir, 'home/.ssh/authorized_keys'), publicKey)
      await inside(['dropbearkey', '-t', 'ed25519', '-f', join(dir, 'host-key')])
      const port = await freePort()
      // among the daemon's files and processes, but in the host's network
      const argv = ['-t', init!, '-m', '-p', '--', 'dropbear', '-F', '-s', '-r', join(dir, 'host-key')]
      const listen = ['-p', `127.0.0.1:${port}`, '-P', join(dir, 'dropbear.pid')]
      spawn('nsenter', [...argv, ...listen], { stdio: 'ignore', env: { ...process.env, ...env } }).unref()
      await takesConnections({ host: '127.0.0.1', port })
      return port
    },
    async signal(name) {
      const pid = (await readFile(pidfile, 'utf8')).trim()
      await inside(['/bin/sh', '-c', `kill -${name} ${pid}`])
      if (name === 'KILL' || name === 'TERM') {
        await until('libvirtd is gone', () =>
          inside(['/bin/sh', '-c', `kill -0 ${pid} 2>/dev/null || echo gone`]).then((t) => t === 'gone'),
        )
      }
    },
    async start() {
      await rm(pidfile, { force: true })
      await inside(['libvirtd', '-d', '-p', pidfile])
      await takesConnections(socket)
    },
    async natNetwork(name = 'default') {
      const file = join(dir, `network-${name}.xml`)
      const bridge = `vs-${name.slice(0, 10)}`
      writeFileSync(file, natNetworkXml(name, bridge))
      const uri = daemon.uri('qemu:///system')
      await virsh(uri, ['net-define', file])
      await virsh(uri, ['net-start', name])
      return {
        name,
        bridge,
        ask: (address, path = '/') => inside([process.execPath, '-e', FETCH, `http://${address}${path}`]),
        firewall: async () => (await inside(['iptables-save'])).replace(/\[\d+:\d+\]/g, '').replace(/^#.*\n?/gm, ''),
      }
    },
    async [Symbol.asyncDispose]() {
      // the first process of a namespace cannot be stopped from inside, and takes everything in it along
      process.kill(Number(init), 'SIGKILL')
      await gone
      await rm(dir, { recursive: true, force: true, maxRetries: 5 })
    },
  }
  try {
    if (o.polkit) {
      await inside(['dbus-daemon', `--config-file=${dir}/bus.conf`, '--fork'])
      await inside(['/usr/lib/polkit-1/polkitd', '--no-debug'], { background: true })
      const owned = [
        '--system',
        '--dest=org.freedesktop.DBus',
        '--print-reply',
        '/',
        'org.freedesktop.DBus.NameHasOwner',
      ]
      await until('polkitd is there', async () =>
        (await inside(['dbus-send', ...owned, 'string:org.freedesktop.PolicyKit1'])).includes('true'),
      )
    }
    await daemon.start()
  } catch (error) {
    await daemon[Symbol.asyncDispose]()
    throw error
  }
  return daemon
}

/** Leases of two minutes, libvirt's shortest: whoever takes a stale one for a new one is soon found out. */
const natNetworkXml = (name: string, bridge: string) =>
  `<network><name>${name}</name><forward mode='nat'/><bridge name='${bridge}' stp='off' delay='0'/>` +
  `<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.250'><lease expiry='2' unit='minutes'/></range></dhcp></ip></network>`

const FETCH = `const r = await fetch(process.argv[1], { signal: AbortSignal.timeout(20_000) })
if (!r.ok) throw new Error(String(r.status))
process.stdout.write(await r.text())`

function polkitFiles(dir: string, answer: 'yes' | 'no'): void {
  mkdirSync(join(dir, 'run/dbus'))
  mkdirSync(join(dir, 'actions'))
  const action = (id: string, says: string) =>
    `<action id="${id}"><description>d</description><message>m</message><defaults><allow_any>${says}</allow_any><allow_inactive>${says}</allow_inactive><allow_active>${says}</allow_active></defaults></action>`
  writeFileSync(
    join(dir, 'actions/org.libvirt.unix.policy'),
    `<?xml version="1.0"?><policyconfig>${action('org.libvirt.unix.manage', answer)}${action('org.libvirt.unix.monitor', 'no')}</policyconfig>`,
  )
  writeFileSync(
    join(dir, 'bus.conf'),
    `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`,
  )
}

/** The daemon of one user's session: no namespaces, and as nobody when the tests are root. `env` is what its clients look at. */
export async function sessionLibvirtd(): Promise<
  AsyncDisposable & { dir: string; env: NodeJS.ProcessEnv; socket: string; virsh: Libvirtd['virsh'] }
> {
  const dir = makeDir()
  if (isRoot) chownSync(dir, NOBODY, NOBODY)
  const env = { HOME: dir, XDG_RUNTIME_DIR: dir, XDG_CONFIG_HOME: dir, XDG_CACHE_HOME: dir, XDG_DATA_HOME: dir }
  const child = spawn('libvirtd', [], {
    cwd: dir,
    stdio: 'ignore',
    env: { ...process.env, ...env, LC_ALL: 'C', PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    ...(isRoot ? { uid: NOBODY, gid: NOBODY } : {}),
  })
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const stop = async () => {
    child.kill('SIGKILL')
    await gone
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  const socket = join(dir, 'libvirt/libvirt-sock')
  try {
    await takesConnections(socket)
  } catch (error) {
    await stop()
    throw error
  }
  return { dir, env, socket, virsh: (uri, ...args) => virsh(uri, args), [Symbol.asyncDispose]: stop }
}

function makeDir(): string {
  const { mode } = statSync(tmpdir())
  // whoever a daemon runs as must be able to pass through
  if (isRoot && (mode & 0o001) === 0) chmodSync(tmpdir(), (mode & 0o777) | 0o011)
  const dir = mkdtempSync(join(tmpdir(), 'lvd-'))
  chmodSync(dir, 0o755)
  return dir
}

async function virsh(uri: string, args: readonly string[]): Promise<string> {
  const whole = uri.replace(/^(\w+):/, '$1+unix:')
  return (await execa('virsh', ['-q', '-c', whole, ...args], { env: { LC_ALL: 'C' } })).stdout
}

const takesConnections = (to: string | { host: string; port: number }) =>
  until(
    `somebody takes connections at ${JSON.stringify(to)}`,
    () =>
      new Promise<boolean>((resolve) => {
        const s = typeof to === 'string' ? connect(to) : connect(to.port, to.host)
        s.once('connect', () => {
          s.destroy()
          resolve(true)
        })
        s.once('error', () => resolve(false))
      }),
  )

/** One that the kernel gives to nobody by itself, so that nobody has it until it is used: below those that it chooses from, another for each process. */
async function freePort(): Promise<number> {
  for (let port = 10_000 + (process.pid % 2_000) * 10; ; port = port < 31_990 ? port + 1 : 10_000)
    if (await isFree(port)) return port
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
