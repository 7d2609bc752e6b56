// `npm run soak`: what takes too long for `npm test`, section by section, each with its figures.
// `npm run soak -- chaos sweep` runs the sections whose names contain one of the words.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import setup from './support/global-setup.ts'

const sections: { name: string; script: string }[] = [
  { name: 'simulation', script: 'sim/soak.process.ts' },
  { name: 'crash and fault sweep', script: 'crash/soak.process.ts' },
  { name: 'chaos', script: 'chaos/soak.process.ts' },
  { name: 'fuzz', script: 'manifest/soak.process.ts' },
  { name: 'logs', script: 'process/log-soak.process.ts' },
  { name: 'commands', script: 'process/soak.process.ts' },
  { name: 'systemd', script: 'process/systemd.process.ts' },
  { name: 'hardened units', script: 'systemd/hardened.process.ts' },
  { name: 'a host', script: 'systemd/host.process.ts' },
  { name: 'libvirt', script: 'libvirt/soak.process.ts' },
  { name: 'vm kills', script: 'vm/soak.process.ts' },
  { name: 'newer libvirt', script: 'libvirt/newer.process.ts' },
  { name: 'nfs', script: 'nfs/soak.process.ts' },
  { name: 'damaged disks', script: 'convert/mutation.process.ts' },
  { name: 'guest boot', script: 'convert/boot.process.ts' },
  { name: 'guest fixing', script: 'convert/fix.process.ts' },
]

const words = process.argv.slice(2)
const chosen = sections.filter((s) => words.length === 0 || words.some((w) => s.name.includes(w)))
if (chosen.length === 0) {
  process.stderr.write(`No section matches ${words.join(' ')}. There are: ${sections.map((s) => s.name).join(', ')}.\n`)
  process.exit(2)
}

const teardown = setup()
// The guest that several sections boot is made once per run, or kept where the variable says.
const own = process.env.VMSPOOL_GUEST_CACHE === undefined ? mkdtempSync(join(tmpdir(), 'guest-')) : undefined
if (own !== undefined) process.env.VMSPOOL_GUEST_CACHE = own
const results: { name: string; ok: boolean; seconds: number }[] = []
for (const { name, script } of chosen) {
  process.stdout.write(`\n## ${name}\n\n`)
  const at = performance.now()
  const ok = await new Promise<boolean>((resolve) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, script)], {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
    child.on('close', (code) => resolve(code === 0))
  })
  results.push({ name, ok, seconds: Math.round((performance.now() - at) / 1000) })
}
if (own !== undefined) rmSync(own, { recursive: true, force: true })
let leak = false
try {
  await teardown()
} catch (error) {
  leak = true
  process.stdout.write(`\n${(error as Error).message}\n`)
}
process.stdout.write('\n')
for (const r of results) process.stdout.write(`${r.ok ? '✓' : '✗'} ${r.name} (${r.seconds} s)\n`)
const failed = results.filter((r) => !r.ok).length + (leak ? 1 : 0)
process.stdout.write(`${results.length - results.filter((r) => !r.ok).length} passed, ${failed} failed\n`)
process.exitCode = failed > 0 ? 1 : 0
