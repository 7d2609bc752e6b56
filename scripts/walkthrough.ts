/**
 * Runs the walk-through of the README for real and writes what was printed between its two markers: what stands there is the
 * literal output of a run. `npm run walkthrough`
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

const home = join(import.meta.dirname, '..')
const begin = '<!-- walk-through: written by scripts/walkthrough.ts -->'
const end = '<!-- end of the walk-through -->'

const work = mkdtempSync(join(tmpdir(), 'vmspool-walk-'))
const env: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: `${join(home, 'bin')}:${process.env.PATH}`,
  NO_COLOR: '1',
  VMSPOOL_ROOT: join(work, 'spool'),
  VMSPOOL_INSTANCE: 'demo',
  VMSPOOL_RUNTIME_DIR: join(work, 'run'),
}
let agent: ChildProcess | undefined

try {
  mkdirSync(join(work, 'export'))
  makeExport(join(work, 'export'))
  agent = spawn('vmspool', ['agent', 'demo'], { env, cwd: work, stdio: 'ignore' })
  await ready()
  const shown = [
    '$ export VMSPOOL_ROOT=$PWD/spool VMSPOOL_INSTANCE=demo',
    '$ vmspool agent demo > agent.log &',
    ...[
      'cat export/artifact-manifest.json',
      'vmspool check export/artifact-manifest.json',
      'vmspool submit --wait export/artifact-manifest.json',
      'vmspool status web-01',
      'ls spool/demo/output',
      'qemu-img compare export/web-01-disk1.vmdk spool/demo/output/web-01.qcow2',
      'vmspool daemon drain --wait',
    ].flatMap((command) => [`$ ${command}`, run(command)]),
  ]
  const text = shown.join('\n').replaceAll(work, '/tmp/demo')
  const readme = join(home, 'README.md')
  const before = readFileSync(readme, 'utf8')
  const [head, rest] = [before.slice(0, before.indexOf(begin)), before.slice(before.indexOf(end))]
  if (!before.includes(begin) || !before.includes(end))
    throw new Error('The README has lost its markers for the walk-through.')
  writeFileSync(readme, `${head}${begin}\n\n\`\`\`console\n${text}\n\`\`\`\n\n${rest}`)
} finally {
  agent?.kill()
  rmSync(work, { recursive: true, force: true, maxRetries: 5 })
}

/** Both streams as a person at a terminal without cursor control would see them. */
function run(command: string): string {
  const r = spawnSync('sh', ['-c', `${command} 2>&1`], { env, cwd: work, encoding: 'utf8' })
  if (r.status !== 0) throw new Error(`${command} ended with ${r.status}:\n${r.stdout}`)
  return r.stdout.trimEnd()
}

async function ready(): Promise<void> {
  for (let i = 0; i < 200; i++) {
    if (spawnSync('vmspool', ['daemon', 'status', '--instance', 'demo'], { env }).status === 0) return
    await sleep(100)
  }
  throw new Error('The agent of the walk-through did not start.')
}

/** A disk of 64 MiB with content that compresses somewhat, exported as hyperexport does. */
function makeExport(dir: string): void {
  const raw = join(work, 'disk.raw')
  const content = Buffer.alloc(64 << 20)
  const source = readFileSync(process.execPath)
  source.copy(content, 1 << 20, 0, 40 << 20)
  writeFileSync(raw, content)
  const vmdk = join(dir, 'web-01-disk1.vmdk')
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, vmdk])
  rmSync(raw)
  const manifest = {
    manifest_version: '1.0',
    source: { provider: 'vsphere', vm_name: 'web-01' },
    disks: [
      {
        id: 'disk-0',
        source_format: 'vmdk',
        bytes: readFileSync(vmdk).length,
        local_path: vmdk,
        checksum: `sha256:${execFileSync('sha256sum', [vmdk], { encoding: 'utf8' }).slice(0, 64)}`,
        disk_type: 'boot',
      },
    ],
    output: { format: 'qcow2' },
  }
  writeFileSync(join(dir, 'artifact-manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`)
}
