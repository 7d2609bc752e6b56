// libvirt's real QEMU driver without its daemon: `qemu:///embed` runs inside virsh, below a folder of its own. No host setting is
// used or changed, and nothing stays running. It runs as nobody when the tests are root, since as root it wants the user libvirt-qemu.
import { chmodSync, chownSync, mkdirSync, mkdtempSync, statSync, writeFileSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { until } from './wait.ts'

const NOBODY = 65_534

export interface PrivateLibvirt extends AsyncDisposable {
  /** belongs to the user as whom libvirt and its guests run */
  dir: string
  /** what virsh printed; throws when it fails */
  virsh(...args: string[]): Promise<string>
  /** defines a domain from a file as it is but for its type, strictly by libvirt's schema, and returns what libvirt made of it */
  define(file: string): Promise<string>
  /** runs the domain until its guest powers off, and returns what it wrote to its serial port */
  runToEnd(file: string, o: { deadline_ms: number }): Promise<string>
  /** gives a file to the user as whom guests run */
  handOver(file: string): void
}

export async function privateLibvirt(): Promise<PrivateLibvirt> {
  const root = process.getuid?.() === 0
  const dir = mkdtempSync(join(tmpdir(), 'lv-'))
  if (root) {
    // nobody must be able to pass through the run's own folder
    const { mode } = statSync(tmpdir())
    if ((mode & 0o001) === 0) chmodSync(tmpdir(), (mode & 0o777) | 0o011)
    chownSync(dir, NOBODY, NOBODY)
  }
  const home = join(dir, 'embed')
  mkdirSync(join(home, 'etc'), { recursive: true })
  // a guest's serial port goes straight into a file: virtlogd is another daemon
  writeFileSync(join(home, 'etc/qemu.conf'), 'stdio_handler = "file"\n')
  if (root) for (const d of [home, join(home, 'etc')]) chownSync(d, NOBODY, NOBODY)
  const options = {
    cwd: dir,
    env: { HOME: dir, XDG_RUNTIME_DIR: dir, XDG_CACHE_HOME: dir, XDG_CONFIG_HOME: dir, LC_ALL: 'C' },
    ...(root ? { uid: NOBODY, gid: NOBODY } : {}),
  }
  let files = 0
  // without KVM in sight libvirt refuses the type before it looks at the rest
  const tcg = async (file: string, change: (xml: string) => string = (x) => x): Promise<string> => {
    const xml = await readFile(file, 'utf8')
    if (!xml.startsWith('<domain type="kvm">')) throw new Error(`${file} does not begin with a domain of type kvm.`)
    const path = join(dir, `domain-${files++}.xml`)
    await writeFile(path, change(xml.replace('<domain type="kvm">', '<domain type="qemu">')))
    return path
  }
  const virsh = async (...args: string[]) =>
    (await execa('virsh', ['-q', '-c', `qemu:///embed?root=${home}`, ...args], options)).stdout
  return {
    dir,
    virsh,
    async define(file) {
      const path = await tcg(file)
      await virsh('define', '--validate', path)
      // each virsh is a libvirt of its own, which reads what the one before it has stored
      return virsh('dumpxml', '--inactive', /<uuid>(.*)<\/uuid>/.exec(await readFile(path, 'utf8'))![1]!)
    },
    async runToEnd(file, o) {
      const serial = join(dir, `serial-${files}.log`)
      const before = '<serial type="pty">'
      const path = await tcg(file, (xml) => {
        if (!xml.includes(before)) throw new Error(`${file} has no serial port to listen on.`)
        return xml
          .replace(before, `<serial type="file"><source path="${serial}"/>`)
          .replace(/<console type="pty">.*?<\/console>/s, '')
      })
      const child = execa('virt-qemu-run', ['-r', home, path], { ...options, reject: false })
      let ended: string | undefined
      const done = child.then((r) => {
        ended = `exit code ${r.exitCode}: ${r.stderr}`
      })
      const said = () => readFile(serial, 'latin1').catch(() => '')
      try {
        // virt-qemu-run 9.0 does not notice that its guest is off
        await until('the guest powers off', async () => ended !== undefined || (await said()).includes('Power down'), {
          deadline_ms: o.deadline_ms,
          every_ms: 100,
        })
        if (ended !== undefined) throw new Error(`virt-qemu-run ended with ${ended}`)
        return await said()
      } finally {
        child.kill('SIGTERM') // it ends QEMU, if that is still there
        await done
      }
    },
    handOver(file) {
      if (root) chownSync(file, NOBODY, NOBODY)
    },
    [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true, maxRetries: 5 }),
  }
}
