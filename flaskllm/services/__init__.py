"""The use cases: no Flask, no vendor. `Services` is what views, commands and jobs are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaskllm.services.accounts import AccountService
    from flaskllm.services.asking_order import AskingOrder
    from flaskllm.services.audit import AuditTrail
    from flaskllm.services.batch_desk import BatchDesk
    from flaskllm.services.batch_worker import BatchWorker
    from flaskllm.services.batches import BatchService
    from flaskllm.services.bodies import BodyService
    from flaskllm.services.catalogue import CatalogueCache
    from flaskllm.services.chat_orchestrator import ChatOrchestrator
    from flaskllm.services.conversations import ConversationService
    from flaskllm.services.external_calls import ExternalCallService
    from flaskllm.services.file_batches import FileBatchService
    from flaskllm.services.files import FileService
    from flaskllm.services.first_run import FirstRun
    from flaskllm.services.health import HealthService
    from flaskllm.services.housekeeper import Housekeeper
    from flaskllm.services.idempotency import Idempotency
    from flaskllm.services.ledger import Ledger
    from flaskllm.services.limits import Limits
    from flaskllm.services.metrics import Metrics
    from flaskllm.services.model_router import ModelRouter
    from flaskllm.services.outbox import Outbox
    from flaskllm.services.overview import OverviewService
    from flaskllm.services.prompts import PromptService
    from flaskllm.services.provider_check import ProviderCheck
    from flaskllm.services.provider_factory import ProviderFactory
    from flaskllm.services.provider_keys import KeyService
    from flaskllm.services.provider_models import ModelService
    from flaskllm.services.provider_probe import ProviderProbe
    from flaskllm.services.providers import ProviderService
    from flaskllm.services.quotas import QuotaService
    from flaskllm.services.ranges import RangeService
    from flaskllm.services.reconciliation import ReconciliationService
    from flaskllm.services.requests import CallLog
    from flaskllm.services.responses import ResponseService
    from flaskllm.services.rollups import Rollups
    from flaskllm.services.routes import RouteService
    from flaskllm.services.shutdown import Shutdown
    from flaskllm.services.templates import TemplateService
    from flaskllm.services.tokens import TokenService
    from flaskllm.services.troubles import TroubleService
    from flaskllm.services.usage import UsageService
    from flaskllm.services.workers import WorkerWatch


@dataclass(frozen=True, slots=True)
class Services:
    """The frozen bundle, made once for each application by `wiring`."""

    accounts: AccountService
    first_run: FirstRun
    tokens: TokenService
    catalogue: CatalogueCache
    router: ModelRouter
    factory: ProviderFactory
    providers: ProviderService
    provider_models: ModelService
    provider_keys: KeyService
    routes: RouteService
    asking_order: AskingOrder
    provider_check: ProviderCheck
    provider_probe: ProviderProbe
    chat: ChatOrchestrator
    conversations: ConversationService
    responses: ResponseService
    prompts: PromptService
    batches: BatchService
    batch_desk: BatchDesk
    batch_worker: BatchWorker
    files: FileService
    file_batches: FileBatchService
    ranges: RangeService
    idempotency: Idempotency
    templates: TemplateService
    usage: UsageService
    rollups: Rollups
    requests: CallLog
    bodies: BodyService
    overview: OverviewService
    workers: WorkerWatch
    troubles: TroubleService
    reconciliation: ReconciliationService
    audit: AuditTrail
    limits: Limits
    ledger: Ledger
    metrics: Metrics
    quotas: QuotaService
    external_calls: ExternalCallService
    outbox: Outbox
    health: HealthService
    housekeeper: Housekeeper
    shutdown: Shutdown
