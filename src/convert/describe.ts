import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Ovf } from '../images/index.ts'
import { type Domain, type MadeDisk, mergeDomain, renderDomain, writable } from '../domain/index.ts'
import type { Inspected } from './inspect.ts'
import type { Target } from './targets.ts'
import type { ConvertPlan, ConvertReport, DomainReport } from './types.ts'

/** The VM over the finished disks, and what of it is a guess. */
export interface DescribedVm {
  domain: Domain
  assumed: string[]
}

/**
 * The finished disks as a VM for libvirt. The paths in it are those under which the answer will be found, not those of this moment.
 * @returns no VM, with a warning, when a path cannot be written in XML
 */
export function describeVm(
  plan: ConvertPlan,
  inspected: Inspected,
  targets: readonly Target[],
  report: Pick<ConvertReport, 'fix' | 'guest'>,
): { vm?: DescribedVm; warnings: string[] } {
  if (!plan.vm || (!plan.vm.write_xml && !plan.define)) return { warnings: [] }
  const made: MadeDisk[] = targets
    .filter((t) => t.format === plan.output.format)
    .map((t) => ({
      id: t.disk.id,
      path: join(plan.vm!.output_dir, t.final),
      format: t.format,
      boot: t.disk.boot,
      boot_order_hint: t.disk.boot_order_hint,
    }))
  const odd = made.find((d) => !writable(d.path))
  if (odd)
    return {
      warnings: [
        `${plan.name}.xml was not written: the path ${JSON.stringify(odd.path)} has characters that XML cannot hold.`,
      ],
    }
  const ovf = ovfOf(inspected)
  const { domain, warnings, assumed } = mergeDomain(plan.name, plan.vm, ovf, made, {
    ...(report.guest ? { info: report.guest } : {}),
    ...(report.fix?.block_bus === undefined ? {} : { block_bus: report.fix.block_bus }),
    ...(report.fix?.net_bus === undefined ? {} : { net_bus: report.fix.net_bus }),
  })
  return { warnings, vm: { domain, assumed } }
}

/** Writes `<name>.xml` into `plan.dir`. */
export async function writeDescription(
  plan: ConvertPlan,
  { domain, assumed }: DescribedVm,
  xml = renderDomain(domain),
): Promise<DomainReport> {
  const path = `${plan.name}.xml`
  await writeFile(join(plan.dir, path), xml)
  return {
    path,
    size_bytes: (await stat(join(plan.dir, path))).size,
    name: domain.name,
    uuid: domain.uuid,
    vcpus: domain.vcpus,
    memory_bytes: domain.memory_bytes,
    firmware: domain.firmware,
    secure_boot: domain.secure_boot,
    machine: domain.machine,
    devices: domain.devices.row,
    devices_reason: domain.devices.reason,
    disks: domain.disks.map((d) => ({
      disk_id: d.id,
      path: d.path,
      target: d.target,
      bus: d.bus,
      boot_order: d.boot_order,
    })),
    nics: domain.nics.map((n) => ({
      mac: n.mac ?? null,
      model: n.model,
      network: n.network,
      source_network: n.original.network ?? null,
    })),
    assumed,
  }
}

/** The OVF of the disk that boots, else of the first that came with one. */
function ovfOf(inspected: Inspected): Ovf | undefined {
  const described = inspected.opened.filter((o) => o.ovf)
  return (described.find((o) => o.disks.some((d) => d.boot)) ?? described[0])?.ovf
}

/** The plan with the machine that virt-v2v is told of as it was at the source: the manifest first, then the OVF. */
export function withMachine(plan: ConvertPlan, inspected: Inspected): ConvertPlan {
  if (!plan.fix || !plan.vm) return plan
  const { vm } = plan
  const { firmware, memory_bytes, cpus } = plan.fix.machine
  const ovf = ovfOf(inspected)
  const machine = {
    firmware: vm.firmware ?? ovf?.firmware ?? firmware,
    memory_bytes: vm.memory_bytes ?? ovf?.memory_bytes ?? memory_bytes,
    cpus: vm.vcpus ?? ovf?.vcpus ?? cpus,
  }
  return { ...plan, fix: { ...plan.fix, machine } }
}
