// What `hyperexport --hyper2kvm-daemon` does on disk, step by step (HyperSDK providers/common/pipeline.go and manifest/).
// A script, not a mock: it shares no code with vmspool and only knows what the Go program knows.
import { spawn } from 'node:child_process'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse as parseYaml } from 'yaml'

export interface HyperexportOptions {
  watchDir: string
  outputDir: string
  manifestPath: string
  /** the real client takes whole seconds, 0 means 5 */
  pollMs: number
  /** the real client takes whole minutes, 0 means 60 */
  timeoutMs: number
  /** a revision that checks `source` for nil before it reads the VM's name; the released one crashes there */
  nilCheck?: boolean
  /** what nobody will answer any more need not be waited for: the client then ends as it does when its time is over */
  hopeless?(): Promise<boolean>
}

/** The fields that the Go program reads. */
interface GoManifest {
  manifest_version?: string
  source?: { vm_name?: string }
  disks?: {
    id?: string
    source_format: string
    bytes?: number
    local_path?: string
    checksum?: string
    boot_order_hint?: number
    disk_type?: string
  }[]
  vm?: { cpu?: number; mem_gb?: number; firmware?: string }
  nics?: { mac?: string }[]
}

export interface PipelineResult {
  success: boolean
  outputPath?: string
  error?: string
  output: string[]
}

/** Execute(): asks systemd whether a daemon runs, else runs the program itself. Answers for the rest as the Go program does. */
export async function executePipeline(
  o: HyperexportOptions & { instance?: string; hyper2kvmPath?: string; stream?: boolean },
): Promise<PipelineResult & { mode: 'daemon' | 'direct' }> {
  const service = o.instance ? `hyper2kvm@${o.instance}.service` : 'hyper2kvm.service'
  if ((await run('systemctl', ['is-active', service])).code === 0) return { mode: 'daemon', ...(await hyperexport(o)) }
  return { mode: 'direct', ...(await direct(o)) }
}

async function direct(o: { manifestPath: string; hyper2kvmPath?: string; stream?: boolean }): Promise<PipelineResult> {
  const places = [
    o.hyper2kvmPath ?? '/home/tt/hyper2kvm/hyper2kvm',
    '/usr/local/bin/hyper2kvm',
    '/usr/bin/hyper2kvm',
    './hyper2kvm',
    '../hyper2kvm/hyper2kvm',
  ]
  let program = 'hyper2kvm'
  for (const place of places.reverse()) if (await exists(place)) program = place
  const r = await run(program, [o.manifestPath, ...(o.stream === false ? [] : ['-v'])])
  if (r.code !== 0) return { success: false, error: `hyper2kvm failed: exit status ${r.code}`, output: r.lines }
  const said = r.lines.find((l) => l.startsWith('Output:') || l.startsWith('Wrote:'))
  const outputPath = said?.split(/\s+/)[1]
  return { success: true, output: r.lines, ...(outputPath === undefined ? {} : { outputPath }) }
}

function run(program: string, args: string[]): Promise<{ code: number; lines: string[] }> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    child.stdout.on('data', (d: Buffer) => (said += d.toString()))
    child.stderr.on('data', (d: Buffer) => (said += d.toString()))
    child.on('error', (e) => resolve({ code: 127, lines: [e.message] }))
    child.on('close', (code) => resolve({ code: code ?? 255, lines: said.split('\n').filter(Boolean) }))
  })
}

export async function hyperexport(o: HyperexportOptions): Promise<PipelineResult> {
  const fail = (error: string): PipelineResult => ({ success: false, error, output: [] })
  for (const [what, dir] of [
    ['watch', o.watchDir],
    ['output', o.outputDir],
  ] as const) {
    try {
      await stat(dir)
    } catch {
      return fail(`daemon ${what} directory not found: ${dir}: stat ${dir}: no such file or directory`)
    }
  }

  const data = await readFile(o.manifestPath)
  const yaml = ['.yaml', '.yml'].includes(extname(o.manifestPath))
  const manifest: GoManifest = yaml ? parseYaml(data.toString()) : JSON.parse(data.toString())
  const invalid = await validate(manifest)
  if (invalid !== undefined) return fail(`validation failed: ${invalid}`)
  if (manifest.source === undefined && !o.nilCheck) {
    throw new Error('panic: runtime error: invalid memory address or nil pointer dereference')
  }
  const vmName: string = manifest.source?.vm_name || 'vm'

  // os.WriteFile: O_WRONLY|O_CREATE|O_TRUNC, one write, no fsync, no rename, the constant name of the manifest.
  await writeFile(join(o.watchDir, basename(o.manifestPath)), data, { flag: 'w', mode: 0o644 })

  const started = performance.now()
  const image = join(o.outputDir, `${vmName}.qcow2`)
  const errorFile = join(o.outputDir, `${vmName}.error`)
  for (let tick = 1; ; tick++) {
    const next = started + tick * o.pollMs
    if (next - started > o.timeoutMs) return fail(`daemon processing timeout after ${o.timeoutMs / 60_000}m`)
    await sleep(Math.max(0, next - performance.now()))
    const hopeless = await o.hopeless?.()
    if (await exists(image)) {
      const seconds = ((performance.now() - started) / 1000).toFixed(1)
      return { success: true, outputPath: image, output: [`Daemon processed VM in ${seconds}s`] }
    }
    const text = await readFile(errorFile, 'utf8').catch(() => undefined)
    if (text !== undefined) return fail(`daemon processing failed: ${text}`)
    if (hopeless) return fail(`daemon processing timeout after ${o.timeoutMs / 60_000}m`)
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

/** manifest.Validate in its order: version, disks, vm, nics. The first error wins. */
async function validate(m: GoManifest): Promise<string | undefined> {
  if (m.manifest_version !== '1.0') return `unsupported manifest version "${m.manifest_version ?? ''}": expected "1.0"`
  if (!m.disks?.length) return 'manifest must have at least one disk'
  const seen = new Set<string>()
  for (const [i, disk] of m.disks.entries()) {
    if (!disk.id) return `disk[${i}]: id is required`
    if (!/^[a-zA-Z0-9_-]+$/.test(disk.id)) return `disk[${i}]: invalid id "${disk.id}"`
    if (seen.has(disk.id)) return `duplicate disk ID: "${disk.id}"`
    seen.add(disk.id)
    if (!['vmdk', 'qcow2', 'raw', 'vhd', 'vhdx', 'vdi'].includes(disk.source_format))
      return `disk[${i}]: invalid source_format`
    if ((disk.bytes ?? 0) < 0) return `disk[${i}]: bytes must be non-negative`
    if (!disk.local_path) return `disk[${i}]: local_path is required`
    if (!(await exists(disk.local_path))) return `disk[${i}]: local_path does not exist: ${disk.local_path}`
    if (disk.checksum && !/^sha256:[a-f0-9]{64}$/.test(disk.checksum)) return `disk[${i}]: invalid checksum format`
    if ((disk.boot_order_hint ?? 0) < 0) return `disk[${i}]: boot_order_hint must be non-negative`
    if (disk.disk_type && !['boot', 'data', 'unknown'].includes(disk.disk_type)) return `disk[${i}]: invalid disk_type`
  }
  if ((m.vm?.cpu ?? 0) < 0 || (m.vm?.mem_gb ?? 0) < 0) return 'vm: cpu and mem_gb must be non-negative'
  if (m.vm?.firmware && !['bios', 'uefi', 'unknown'].includes(m.vm.firmware)) return 'vm: invalid firmware'
  for (const nic of m.nics ?? []) if (nic.mac && nic.mac.length < 17) return 'nic: invalid mac'
  return undefined
}
