/**
 * Whether an action may still do what it is about to do. An attempt that stood still (its process stopped, its host cut off) may come back
 * after a later one has taken over: the registry's entry and the domain's metadata name the latest order, and each mutation looks at
 * both first.
 */
import { uuidOfVm } from '../domain/index.ts'
import type { Domain, Session } from '../libvirt/index.ts'
import { readOwnership } from './domain.ts'
import { VmError, type VmOrder, type VmRecord } from './types.ts'

/** Whose a domain is. */
export interface Who {
  instance: string
  dir: string
  name: string
}

export interface OwnDomain {
  domain: Domain
  /** its definition, as it will be at the next start */
  xml: string
  /** who defined it; undefined for one that Ghost Agent made */
  made?: VmOrder
}

/**
 * The domain of a VM; undefined when libvirt has none.
 * @throws VmError vm-conflict when a domain of that name or uuid is not this VM's: nothing may touch it
 */
export async function ownDomain(s: Session, w: Who, record: VmRecord | undefined): Promise<OwnDomain | undefined> {
  const found = await domainOf(s, w, record)
  if (found) return found
  const other = await s.query.domains.byName(w.name)
  if (other) throw foreign(other, 'is not one that this instance of vmspool manages')
  return undefined
}

/** The same without regard to a stranger that has the name: what is ours can go all the same. */
export async function domainOf(s: Session, w: Who, record: VmRecord | undefined): Promise<OwnDomain | undefined> {
  const uuid = record?.uuid ?? uuidOfVm(w.instance, w.name)
  const domain = await s.query.domains.byUuid(uuid)
  if (!domain) return undefined
  if (domain.name !== w.name) throw foreign(domain, `has the uuid of the VM "${w.name}"`)
  const xml = await s.query.domains.xml(domain, ['inactive'])
  // taken over with its file from Ghost Agent, which left no mark: the entry is what makes it ours
  if (record?.origin === 'ghost' && record.uuid !== uuidOfVm(w.instance, w.name)) return { domain, xml }
  const owner = readOwnership(xml)
  if (owner === undefined) throw foreign(domain, 'does not carry the mark of vmspool')
  if (owner.instance !== w.instance || owner.dir !== w.dir) {
    throw foreign(domain, `belongs to the instance "${owner.instance}" with its VMs in ${owner.dir}`)
  }
  return { domain, xml, made: { job: owner.job, epoch: owner.epoch } }
}

function foreign(d: Domain, why: string): VmError {
  return new VmError(`libvirt has a domain "${d.name}" (${d.uuid}) that ${why}; it was not touched.`, {
    code: 'vm-conflict',
    hint: `Give the VM another name, or remove that domain yourself if nobody needs it (virsh undefine ${d.uuid}).`,
  })
}

/** @throws VmError vm-superseded when the entry is no longer that of `order` */
export function checkEntry(name: string, order: VmOrder, record: VmRecord | undefined): void {
  const now = record?.order
  if (now?.job === order.job && now.epoch === order.epoch) return
  throw superseded(
    name,
    order,
    now === undefined ? 'its entry was removed meanwhile' : `job ${now.job} (attempt ${now.epoch}) has taken over`,
  )
}

/** @throws VmError vm-superseded when the entry is that of a later attempt of the same job */
export function checkLater(name: string, order: VmOrder, record: VmRecord | undefined): void {
  if (record?.order.job === order.job && record.order.epoch > order.epoch) {
    throw superseded(name, order, `attempt ${record.order.epoch} of the same job has taken over`)
  }
}

/** @throws VmError vm-superseded when a later attempt of the same job has defined the domain */
export function checkMaker(name: string, order: VmOrder, made: VmOrder | undefined): void {
  if (made?.job === order.job && made.epoch > order.epoch) {
    throw superseded(name, order, `attempt ${made.epoch} of the same job has defined the domain`)
  }
}

export function superseded(name: string, order: VmOrder, why: string): VmError {
  return new VmError(
    `Job ${order.job} (attempt ${order.epoch}) no longer works on the VM "${name}": ${why}. Nothing more was touched.`,
    { code: 'vm-superseded' },
  )
}
