// One of many processes that want a place for a VM at the same time. It says so in one line, and holds what it got until it is killed.
import { connect, type Session } from '../../src/libvirt/index.ts'
import { openAdmission } from '../../src/vm/admission.ts'

const [uri, dir, vmDir, n, vcpus] = process.argv.slice(2) as [string, string, string, string, string]
const admission = openAdmission({
  dir,
  vmDir,
  config: () => ({ cpu_overcommit: 1, reserved: { vcpus: 0, memory: 0, disk: 0 } }),
  records: async () => [],
})
const query = await connect(uri)
process.stdout.write('ready\n')
// all at once, as nearly as a loaded machine can
await new Promise((resolve) => process.stdin.once('data', resolve))
try {
  const want = { uuid: `vm-${n}`, name: `vm-${n}`, vcpus: Number(vcpus), memory_bytes: 2 ** 20, disk_bytes: 0 }
  await admission.admit({ ...want, path: vmDir }, { query } as Session)
  process.stdout.write('admitted\n')
} catch (error) {
  process.stdout.write(`refused ${(error as Error & { code?: string }).code} ${(error as Error).message}\n`)
}
setInterval(() => {}, 60_000)
