// `systemctl start agent@vsphere` on a host of its own: Debian 12 with systemd and our .deb, on a kernel with control groups of version 2 alone
// (user-mode Linux). host-inside.sh is what is done there.
import { execFile, spawn } from 'node:child_process'
import { copyFile, mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { execa } from 'execa'
import { home } from '../support/agent.ts'
import { builtCheckout } from '../support/checkout.ts'
import { debianHost } from '../support/debian-host.ts'
import { tempDir } from '../support/temp.ts'

const exec = promisify(execFile)
const started = performance.now()
const say = (line: string) =>
  process.stdout.write(`${String(Math.round((performance.now() - started) / 1000)).padStart(5)} s  ${line}\n`)

const SERVICE = `[Unit]
Description=proof
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /opt/host-inside.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/console
TimeoutStartSec=infinity
`

/** The drop-in that docs/systemd.md shows under "commands of other users". */
async function rootDropIn(): Promise<string> {
  const docs = await readFile(join(home, 'docs/systemd.md'), 'utf8')
  const text = /^ {4}\[Service\]\n {4}User=root\n(?: {4}.*\n)+/m.exec(docs)?.[0]
  if (text === undefined) throw new Error('docs/systemd.md shows no drop-in with User=root any more.')
  return text.replace(/^ {4}/gm, '')
}

/** The host's root with what this proof adds, as a disk. The layer and its mount end with their name space. */
async function hostDisk(dir: string, root: string): Promise<string> {
  const copy = await builtCheckout(dir)
  const argv = [join(copy, 'scripts/package.ts'), '--no-build', '--out', dir, '--only', 'deb', '--compress', 'none']
  await exec(join(home, 'node_modules/.bin/node'), argv)
  const deb = (await readdir(dir)).find((f) => f.endsWith('.deb'))!
  const layer = join(dir, 'layer')
  for (const d of ['up/opt', 'up/etc/systemd/system/multi-user.target.wants', 'work', 'all'])
    await mkdir(join(layer, d), { recursive: true })
  const at = (path: string) => join(layer, 'up', path)
  await copyFile(join(dir, deb), at('opt/vmspool.deb'))
  await copyFile(join(import.meta.dirname, 'host-inside.sh'), at('opt/host-inside.sh'))
  await writeFile(at('opt/root.conf'), await rootDropIn())
  await writeFile(at('etc/systemd/system/proof.service'), SERVICE)
  await writeFile(at('etc/fstab'), '/dev/ubda / ext4 defaults 0 1\n')
  await writeFile(at('etc/hostname'), 'hv-proof\n')
  const disk = join(dir, 'host.img')
  const options = `lowerdir=${root},upperdir=${layer}/up,workdir=${layer}/work`
  const script = [
    `mount -t overlay overlay -o ${options} ${layer}/all`,
    `ln -s ../proof.service ${layer}/all/etc/systemd/system/multi-user.target.wants/`,
    `ln -s /dev/null ${layer}/all/etc/systemd/system/getty.target`,
    `mkfs.ext4 -q -F -d ${layer}/all ${disk} 3G`,
  ].join(' && ')
  await execa('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', script])
  return disk
}

await using temp = await tempDir()
const root = await debianHost(say)
const disk = await hostDisk(temp.path, root)
say('boots')
const child = spawn(
  'linux.uml',
  [
    ...['mem=2048M', 'umid=host', `uml_dir=${temp.path}/`, 'con=null', 'con0=null,fd:1', 'quiet'],
    ...[`ubd0=${disk}`, 'root=/dev/ubda', 'rw', 'panic=-1', 'systemd.unified_cgroup_hierarchy=1'],
  ],
  { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, TMPDIR: temp.path }, detached: true },
)
/** All at once: a program in there whose kernel is gone would go on as one of this host's. */
const end = (): boolean => process.kill(-(child.pid as number), 'SIGKILL')
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, end)
let text = ''
let shown = 0
child.stdout.on('data', (d: Buffer) => {
  text += d.toString()
  const lines = text.slice(shown).split('\n')
  shown = text.length - lines.pop()!.length
  for (const line of lines) if (line.startsWith('PROOF ')) say(line.slice(6).trimEnd())
})
const watchdog = setTimeout(end, 3_600_000)
await new Promise<void>((resolve) => child.on('close', () => resolve()))
clearTimeout(watchdog)
const wrong = /^PROOF END (\d+)/m.exec(text)?.[1]
if (wrong !== '0') {
  process.stdout.write(`${text.slice(-12_000)}\n`)
  process.exitCode = 1
}
